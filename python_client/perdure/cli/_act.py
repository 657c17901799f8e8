"""What changes executions: `perdure enqueue`, `cancel`, `wake`, `retry`, `sweep`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from perdure import TaskCall, by_name
from perdure.cli import _output as out
from perdure.cli._target import Target, with_target
from perdure.cli._values import (
    duration,
    json_object,
    json_text,
    key_for,
    moment,
    moment_or_duration,
    names,
)
from perdure.errors import ParentEnded

if TYPE_CHECKING:
    from perdure.records import SweepReport

_COUNTS = ("promoted", "recovered", "timed_out", "closed", "moved", "forgotten", "deleted")


@click.command(
    short_help="Enqueue task NAME with a JSON input.",
    epilog="Durations are seconds, or 500ms, 30s, 5m, 1h30m. What is not given is the task's"
    " default, else the engine's.",
)
@click.argument("name")
@click.argument("input", type=json_text, default="{}")
@click.option("--queue", help="Where it waits.")
@click.option("--priority", type=int, help="Smaller runs first.")
@click.option("--delay", type=duration, help="Start this much later.")
@click.option("--run-at", metavar="TIME", type=moment, help="Start not before.")
@click.option("--max-attempts", type=int, help="Runs, the first included.")
@click.option("--timeout", type=duration, help="Of one attempt.")
@click.option(
    "--deadline", metavar="TIME|DURATION", type=moment_or_duration, help="Of the whole execution."
)
@click.option("--key", help="At most one live execution of the task has it; also wakes a sleeper.")
@click.option(
    "--key-for", metavar="live|ever|DURATION", type=key_for, help="How long the key is taken."
)
@click.option("--key-scope", help="What the key is unique in, instead of the task.")
@click.option("--sleeping", is_flag=True, default=None, help="Never run: ended by `wake`.")
@click.option("--retry-delay", type=duration, help="Before the second attempt.")
@click.option("--retry-multiplier", type=float, help="Of the delay from attempt to attempt.")
@click.option("--retry-max-delay", type=duration, help="Cap of the delay.")
@click.option("--retry-jitter", type=float, help="Random part of the delay, 0 to 1.")
@click.option("--retry-backoff", type=click.Choice(["exponential", "linear"]))
@click.option("--max-crashes", type=int, help="How often its worker may die.")
@click.option("--headers", metavar="JSON", type=json_object, help="A JSON object that goes along.")
@click.option("--tags", metavar="TAG,…", type=names, help="To find it by.")
@click.option("--shard-key", help="Those with the same one run one at a time, in a sharded queue.")
@with_target
def enqueue(target: Target, name: str, input: str, **options: Any) -> None:  # noqa: A002
    """Enqueue task NAME with INPUT, which is JSON ({} unless given, - reads stdin)."""
    by_name(name)  # refuses a bad name
    call: TaskCall[Any] = TaskCall(name, input.encode(), {}, None)
    with target.client() as client:
        handle = client.enqueue(call.options(**options))
        execution = client.get(handle.id)
    if target.as_json:
        document = {"id": handle.id, "is_new": handle.is_new, "status": execution.status}
        out.print_json({**document, "task": execution.task, "queue": execution.queue})
    elif handle.is_new:
        out.show(out.text(f"execution {handle.id} of {name} is {execution.status}"))
    else:
        out.show(
            out.text(f"execution {handle.id} of {name} has this key; it is {execution.status}")
        )


@click.command()
@click.argument("id_", metavar="ID", type=int)
@click.option("--reason", help="Stored with what is cancelled.")
@with_target
def cancel(target: Target, id_: int, reason: str | None) -> None:
    """Cancel execution ID and what is live below it."""
    with target.client() as client:
        result = client.cancel(id_, reason)
        status = client.status(id_)
    said = {
        "cancelled": "is cancelled",
        "pending": "is being cancelled",
        "finished": f"had ended before: {status}",
    }
    if target.as_json:
        out.print_json({"id": id_, "result": result, "status": status})
    else:
        out.show(f"execution {id_} {said[result]}")


@click.command(short_help="Wake the sleeping execution of TASK that has KEY.")
@click.argument("task")
@click.argument("key")
@click.argument("output", type=json_text, default="null")
@click.option("--error", help="Let it fail with this message instead.")
@click.option("--key-scope", help="What the key is unique in, instead of the task.")
@with_target
def wake(
    target: Target, task: str, key: str, output: str, error: str | None, key_scope: str | None
) -> None:
    """Wake the sleeping execution of TASK that has KEY: it completes with OUTPUT, which is JSON.

    One that has ended before keeps its outcome.
    """
    if error is not None and json.loads(output) is not None:
        raise click.UsageError("an output and --error exclude each other")
    with target.client() as client:
        woken = client.wake(task, key, json.loads(output), error=error, key_scope=key_scope)
    if target.as_json:
        out.print_json(woken)
    elif woken.is_woken:
        out.show(f"execution {woken.id} is {woken.status}")
    else:
        out.show(f"execution {woken.id} had ended before: {woken.status}")


@click.command()
@click.argument("id_", metavar="ID", type=int)
@click.option("--detach", is_flag=True, help="Without telling its parent, which may have ended.")
@with_target
def retry(target: Target, id_: int, detach: bool) -> None:
    """Run execution ID again, which has ended."""
    with target.client() as client:
        try:
            again = client.retry(id_, detach=detach)
        except ParentEnded as error:
            raise ParentEnded(error.message, hint="retry the parent, or give --detach") from error
        status = client.status(again)
    if target.as_json:
        out.print_json({"id": again, "status": status})
    else:
        out.show(f"execution {again} is {status}")


@click.command(short_help="Do what time alone causes; workers do it by themselves.")
@click.option("--channel", help="Only this queue, where that matters.")
@click.option("--max", "limit", type=click.IntRange(1), default=1000, help="Of each kind a pass.")
@click.option("--all", "until_done", is_flag=True, help="Repeat until nothing is due.")
@with_target
def sweep(target: Target, channel: str | None, limit: int, until_done: bool) -> None:
    """Do what time alone causes: due executions, lost workers, passed deadlines.

    Every worker does this by itself; without one, pg_cron or this command can.
    """
    with target.client() as client:
        report = client.sweep(channel, limit=limit)
        while until_done and report.more:
            report = _sum(report, client.sweep(channel, limit=limit))
    if target.as_json:
        out.print_json(report)
        return
    counts = {name: getattr(report, name) for name in _COUNTS}
    said = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items() if n)
    if not said and report.skipped is not None:
        said = f"skipped: {report.skipped}"
    out.show((said or "nothing was due") + ("; more is due" if report.more else ""))


def _sum(first: SweepReport, second: SweepReport) -> SweepReport:
    counts = {name: getattr(first, name) + getattr(second, name) for name in _COUNTS}
    return dataclasses.replace(second, **counts)
