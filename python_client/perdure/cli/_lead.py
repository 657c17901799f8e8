"""Who does what: `perdure leaders`, `workers`, `shards`, `resign`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from perdure.cli import _output as out
from perdure.cli._target import Target, with_target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from perdure.records import Leader, RegisteredWorker, Shard

T = TypeVar("T")

_purpose = click.option(
    "--purpose",
    type=click.Choice(["sweep", "lock"]),
    help="sweep: the housekeeping of a queue; lock: a channel lock. Either unless given.",
)


@click.command()
@_purpose
@with_target
def leaders(target: Target, purpose: str | None) -> None:
    """Show who leads which channel, or did last."""
    with target.client() as client:
        found = client.leaders(purpose)
    headers = ("PURPOSE", "CHANNEL", "HOLDER", "MODE", "#EPOCH", "SINCE")
    _list(target, "leaders", found, headers, _leader_row, "no channel has ever been led")


@click.command()
@click.option("--lost", is_flag=True, help="Also those that are about to be given up.")
@with_target
def workers(target: Target, lost: bool) -> None:
    """Show the registered workers with their health."""
    with target.client() as client:
        found = client.workers(lost=lost)
    headers = ("#MACHINE", "NAME", "HEALTH", "MODE", "QUEUES", "#RUNNING", "SINCE")
    _list(target, "workers", found, headers, _worker_row, "no worker is registered")


@click.command()
@click.option("--queue", help="Only the shards of this queue.")
@with_target
def shards(target: Target, queue: str | None) -> None:
    """Show the shards of sharded queues with their owners."""
    with target.client() as client:
        found = client.shards(queue)
    headers = ("QUEUE", "#SHARD", "#MACHINE", "OWNER", "#EPOCH", "SINCE", "#NEXT")
    nothing = "no sharded queue: select perdure.shard_queue('…') makes one"
    _list(target, "shards", found, headers, _shard_row, nothing)


@click.command(short_help="Ask the holder of CHANNEL to let the next one in.")
@click.argument("channel")
@_purpose
@with_target
def resign(target: Target, channel: str, purpose: str | None) -> int:
    """Ask the holder of CHANNEL to let the next one in; exit code 1 where nobody holds it."""
    with target.client() as client:
        held = [leader for leader in client.leaders(purpose, channel) if leader.is_held]
        for leader in held:
            client.request_resign(channel, leader.purpose)
    if target.as_json:
        out.print_json({"channel": channel, "asked": held})
    elif not held:
        out.show(out.text(f"nobody holds {channel}"))
    for leader in held if not target.as_json else ():
        who = leader.name or f"the session of server process {leader.backend}"
        out.show(out.text(f"asked {who} to resign ({leader.purpose}, epoch {leader.epoch})"))
    return 0 if held else 1


def _list(
    target: Target,
    name: str,
    found: list[T],
    headers: Sequence[str],
    row: Callable[[T], list[RenderableType]],
    nothing: str,
) -> None:
    if target.as_json:
        out.print_json({name: found})
    elif not found:
        out.show(nothing)
    else:
        out.show(out.table(*headers, rows=map(row, found)))


def _leader_row(leader: Leader) -> list[RenderableType]:
    name = leader.name or (f"process {leader.backend}" if leader.backend else "")
    return [
        leader.purpose,
        out.text(leader.channel),
        out.text(name) if leader.is_held else out.text("nobody", "bright_black"),
        out.text(leader.mode or "", "" if leader.is_held else "bright_black"),
        str(leader.epoch),
        out.age(leader.acquired_at) if leader.is_held else "",
    ]


def _shard_row(shard: Shard) -> list[RenderableType]:
    return [
        out.text(shard.queue),
        str(shard.number),
        "" if shard.machine_id is None else str(shard.machine_id),
        out.text("nobody", "bright_black") if shard.name is None else out.text(shard.name),
        str(shard.epoch),
        out.age(shard.acquired_at),
        "" if shard.next_id is None else str(shard.next_id),
    ]


def _worker_row(worker: RegisteredWorker) -> list[RenderableType]:
    health = out.text("healthy", "green")
    if not worker.is_alive:
        health = out.text("lost", "red")
    elif not worker.is_healthy:
        health = out.text("unhealthy", "red")
    return [
        str(worker.machine_id),
        out.text(worker.name),
        health,
        worker.mode,
        out.text(", ".join(worker.queues)),
        str(worker.running),
        out.age(worker.registered_at),
    ]
