"""What only reads: `perdure get`, `tree`, `list`, `fsck`; and `watches`, which mends if told to."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import click

from perdure.cli import _output as out
from perdure.cli._target import Target, with_target
from perdure.records import FINISHED, Status

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from perdure import SyncClient
    from perdure.records import Attempt, Execution, StoredError, TreeNode, WatchHealth

_LONGEST_LOOK = 0.25  # of the time that watching takes, this part is spent asking
_SHORTEST_PAUSE = 0.1


@click.command(short_help="Show everything about execution ID.")
@click.argument("id_", metavar="ID", type=int)
@with_target
def get(target: Target, id_: int) -> None:
    """Show everything about execution ID, with the attempts that did not complete."""
    with target.client() as client:
        execution = client.get(id_)
        attempts = client.attempts(id_)
    if target.as_json:
        out.print_json({**_fields(execution), "attempts": attempts})
        return
    out.show(_heading(execution), out.facts(_facts(execution)))
    if execution.error is not None and execution.error.traceback:
        out.show("", out.text(execution.error.traceback.rstrip(), "bright_black"))
    if attempts:
        rows = [_attempt_row(attempt) for attempt in attempts]
        out.show("", out.table("#ATTEMPT", "STATUS", "#TOOK", "ENDED", "ERROR", rows=rows))


@click.command("list")
@click.option("--status", type=click.Choice(get_args(Status)), metavar="STATUS")
@click.option("--task", help="Only executions of this task.")
@click.option("--queue", help="Only executions in this queue.")
@click.option("--parent", type=int, metavar="ID", help="Only children of this execution.")
@click.option("--roots", is_flag=True, help="Only executions without a parent.")
@click.option("--before", type=int, metavar="ID", help="Older ones than this.")
@click.option("--limit", type=click.IntRange(1), default=20, help="At most so many.")
@with_target
def list_executions(
    target: Target,
    status: Any,
    task: str | None,
    queue: str | None,
    parent: int | None,
    roots: bool,
    before: int | None,
    limit: int,
) -> None:
    """List the newest executions."""
    with target.client() as client:
        found = client.executions(
            status=status,
            task=task,
            queue=queue,
            parent_id=parent,
            roots_only=roots,
            before=before,
            limit=limit,
        )
    if target.as_json:
        out.print_json({"executions": [_fields(execution) for execution in found]})
    elif not found:
        out.show("no such execution")
    else:
        headers = ("#ID", "TASK", "STATUS", "QUEUE", "TRY", "#TOOK", "CREATED")
        out.show(out.table(*headers, rows=map(_list_row, found)))
        if len(found) == limit:
            out.show(out.text(f"older ones: --before {found[-1].id}", "bright_black"))


@click.command()
@click.argument("id_", metavar="ID", type=int)
@click.option("--watch", is_flag=True, help="Show a progress bar until it has ended.")
@click.option("--limit", type=click.IntRange(1), default=100, help="At most so many executions.")
@with_target
def tree(target: Target, id_: int, watch: bool, limit: int) -> None:
    """Show execution ID with all its descendants."""
    with target.client() as client:
        if watch:
            _watch(client, id_, is_quiet=target.as_json)
        root = client.get(id_)
        progress = client.tree_progress(id_)
        nodes = [] if watch and not target.as_json else client.tree(id_, limit=limit)
    if target.as_json:
        document = {"id": id_, "status": root.status, "progress": progress}
        out.print_json(document | {"executions": [_fields(node) for node in nodes]})
        return
    if nodes:
        out.show(_branches(nodes))
    missing = sum(progress.values()) - len(nodes)
    if nodes and missing > 0:
        out.show(out.text(f"… and {missing:,} more (--limit)", "bright_black"))
    if watch:
        took = out.between(root.created_at, root.finished_at)
        out.show(
            out.text(f"execution {id_} of {root.task} ended after {took}: ")
            + out.status(root.status)
        )
    out.show(out.counted(progress))


@click.command(short_help="Check every invariant of the engine.")
@with_target
def fsck(target: Target) -> int:
    """Check every invariant of the engine; exit code 1 when one is broken."""
    with target.client() as client:
        found = client.fsck()
    if target.as_json:
        out.print_json({"violations": found})
    elif not found:
        out.show("all is well: no invariant is broken")
    else:
        rows: list[list[RenderableType]] = [
            [out.text(v.invariant, "red"), "" if v.id is None else str(v.id), out.text(v.detail)]
            for v in found
        ]
        out.show(out.table("BROKEN INVARIANT", "#ID", "DETAIL", rows=rows))
    return 1 if found else 0


@click.command(short_help="Show the watched tables and whether they are watched.")
@click.argument("table", required=False)
@click.option("--repair", is_flag=True, help="Make triggers that are broken anew.")
@with_target
def watches(target: Target, table: str | None, repair: bool) -> int:
    """Show the watched tables (or TABLE) and the health of their triggers.

    Exit code 1 when one is broken.
    """
    repairs = []
    with target.client() as client:
        found = client.check_watches(table)
        if repair:
            broken = {health.table for health in found if health.problem}
            repairs = [made for each in sorted(broken) for made in client.repair_watches(each)]
            found = client.check_watches(table)
    if target.as_json:
        out.print_json({"watches": found, "repairs": repairs})
    elif not found:
        out.show("no table is watched" if table is None else "this table is not watched")
    else:
        by_watch: dict[tuple[str, str | None], list[WatchHealth]] = {}
        for health in found:
            by_watch.setdefault((health.table, health.task), []).append(health)
        rows: list[list[RenderableType]] = [
            [
                out.text(name),
                out.text(task or ""),
                ", ".join(health.operation for health in healths),
                _health(healths),
            ]
            for (name, task), healths in by_watch.items()
        ]
        out.show(out.table("TABLE", "TASK", "OPERATIONS", "HEALTH", rows=rows))
        for made in repairs:
            what = f"{made.table}: {made.operation} was {made.problem}: {made.result}"
            out.show(out.text(what, "" if made.is_repaired else "red"))
    return 1 if any(health.problem for health in found) else 0


def _health(healths: list[WatchHealth]) -> Text:
    broken = [f"{health.operation}: {health.problem}" for health in healths if health.problem]
    return out.text(", ".join(broken), "red") if broken else out.text("ok", "green")


def _watch(client: SyncClient, root: int, *, is_quiet: bool) -> None:
    """Returns when the execution has ended; meanwhile shows how far its tree is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    execution = client.get(root)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}", style="bright_black"),
        console=out.make_console(),
        disable=is_quiet or not out.make_console().is_terminal,
        refresh_per_second=8,
    )
    with bar:
        shown = bar.add_task(f"{root} {execution.task}", total=None, rest="")
        while True:
            began = time.monotonic()
            progress = client.tree_progress(root)
            ended = sum(n for status, n in progress.items() if status in FINISHED)
            live = {status: n for status, n in progress.items() if status not in FINISHED}
            rest = ", ".join(f"{n:,} {status}" for status, n in live.items())
            bar.update(shown, total=sum(progress.values()), completed=ended, rest=rest)
            if client.status(root) in FINISHED:
                return
            took = time.monotonic() - began
            time.sleep(max(_SHORTEST_PAUSE, took / _LONGEST_LOOK - took))


def _fields(record: Execution | TreeNode) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _heading(execution: Execution) -> Text:
    title = out.text(f"execution {execution.id} of ") + out.text(execution.task, "bold")
    return title + out.text(" is ") + out.status(execution.status)


def _facts(execution: Execution) -> list[tuple[str, RenderableType | None]]:
    tries = f"{execution.attempt} of {execution.max_attempts}"
    if execution.crashes:
        tries += f", and {execution.crashes} crashed"
    if execution.iteration:
        tries += f", iteration {execution.iteration}"
    parent = None
    if execution.parent_id is not None:
        place = "its finalize" if execution.is_finalize else f"child {execution.position}"
        parent = f"{execution.parent_id} ({place}), root {execution.root_id}"
    timeout = execution.timeout
    finished = out.clock(execution.finished_at)
    if finished is not None and execution.started_at is not None:
        finished += f", took {out.between(execution.started_at, execution.finished_at)}"
    rows: list[tuple[str, Any]] = [
        ("queue", f"{execution.queue}, priority {execution.priority}"),
        ("attempts", tries),
        ("key", execution.key),
        ("shard key", execution.shard_key),
        ("parent", parent),
        ("tags", ", ".join(execution.tags) if execution.tags else None),
        ("timeout", None if timeout is None else out.seconds(timeout.total_seconds())),
        ("deadline", out.clock(execution.deadline_at)),
        ("created", out.clock(execution.created_at)),
        ("starts", None if execution.is_finished else out.clock(execution.start_at)),
        ("started", out.clock(execution.started_at)),
        ("finished", finished),
    ]
    shown: list[tuple[str, RenderableType | None]] = [
        (label, None if value is None else out.text(value)) for label, value in rows
    ]
    shown.append(("headers", out.value(execution.headers) if execution.headers else None))
    shown.append(("input", out.value(execution.input)))
    if execution.status == "completed" or execution.output is not None:
        shown.append(("output", out.value(execution.output)))
    if execution.error is not None:
        shown.append(("error", out.text(_said(execution.error), "red")))
    return shown


def _said(error: StoredError) -> str:
    return f"{error.type}: {error.message}"


def _attempt_row(attempt: Attempt) -> list[RenderableType]:
    return [
        str(attempt.attempt),
        out.status(attempt.status),
        out.between(attempt.started_at, attempt.ended_at) if attempt.started_at else "",
        out.age(attempt.ended_at),
        out.text("" if attempt.error is None else _said(attempt.error).replace("\n", " ")),
    ]


def _list_row(execution: Execution) -> list[RenderableType]:
    took = out.between(execution.started_at, execution.finished_at)
    return [
        str(execution.id),
        out.text(execution.task),
        out.status(execution.status) + out.text(_when(execution), "bright_black"),
        out.text(execution.queue),
        f"{execution.attempt}/{execution.max_attempts}",
        took,
        out.age(execution.created_at),
    ]


def _when(execution: Execution) -> str:
    """When it is to start, where that is later."""
    start_at = execution.start_at
    if execution.status != "ready" or start_at is None or start_at <= datetime.now(UTC):
        return ""
    return f" {out.age(start_at)}"


def _branches(nodes: list[TreeNode]) -> RenderableType:
    from rich.tree import Tree

    root = Tree(_node(nodes[0]), guide_style="bright_black")
    known = {nodes[0].id: root}
    for node in nodes[1:]:
        assert node.parent_id is not None
        known[node.id] = known[node.parent_id].add(_node(node))
    return root


def _node(node: TreeNode) -> Text:
    line = out.text(f"{node.id} {node.task} ") + out.status(node.status)
    if node.is_finalize:
        line += out.text(" (finalize)", "bright_black")
    if node.started_at is not None:
        line += out.text(f" {out.between(node.started_at, node.finished_at)}", "bright_black")
    if node.error is not None:
        line += out.text(f" {_said(node.error).splitlines()[0]}", "bright_black")
    line.no_wrap = True
    line.overflow = "ellipsis"
    return line
