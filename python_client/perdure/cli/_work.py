"""What needs an app: `perdure worker`, `perdure tasks sync`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from perdure import _dsn, _schema
from perdure.cli import _output as out
from perdure.cli._target import Target, connect, with_target
from perdure.cli._values import duration, load_app, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perdure import App, SyncClient


@click.command()
@click.argument("place", metavar="MODULE:APP")
@click.option(
    "--queues",
    type=names,
    metavar="NAME,…",
    help="In order of preference; those of the app's tasks unless given.",
)
@click.option("--concurrency", type=click.IntRange(1), default=100, help="Bodies at once.")
@click.option("--batch", type=click.IntRange(1), default=100, help="Claimed per round trip.")
@click.option("--prefetch", type=click.IntRange(0), default=0, help="Claimed ahead of a free slot.")
@click.option(
    "--drain-timeout", type=duration, default="30s", help="For running bodies to end at a stop."
)
@click.option(
    "--poll", type=duration, default="5s", help="Look for work unasked; notifications come at once."
)
@click.option(
    "--ttl", type=duration, default="10s", help="Without a sign of life its work is given away."
)
@click.option("--weight", type=click.IntRange(1, 1000), default=1, help="Its share of shards.")
@click.option(
    "--sweeper/--no-sweeper", default=True, help="Stand for the housekeeping of its queues."
)
@click.option(
    "--direct-url",
    "direct_dsn",
    metavar="URL",
    envvar="PERDURE_DIRECT_URL",
    show_envvar=True,
    help="A way to the database around a pooler, for listening.",
)
@click.option("--name", help="How it is called in the database; host:pid unless given.")
@click.option("--embedded", is_flag=True, help="Start a private server in the folder, or join it.")
@click.option("--stop-on-eof", is_flag=True, help="Stop when standard input ends.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="What is told on stderr.",
)
@with_target
def worker(
    target: Target,
    place: str,
    queues: list[str] | None,
    embedded: bool,
    stop_on_eof: bool,
    log_level: str,
    **options: Any,
) -> None:
    """Run the tasks of MODULE:APP until told to stop.

    The first TERM or INT lets running bodies end; the second interrupts them and hands their
    executions back unharmed.
    """
    import asyncio

    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    if options["drain_timeout"] < 0:
        raise click.BadParameter("--drain-timeout is negative")
    if embedded and target.database_url is not None:
        raise click.UsageError("--embedded and --database-url exclude each other")
    app = load_app(place)
    with _server(target) if embedded else contextlib.nullcontext():
        _point(app, target)
        queues = queues or _queues(app)
        with connect(_dsn.resolve(app.dsn)) as conn:
            _schema.check_version(conn)
        _announce(target, app, place, queues)
        if stop_on_eof:
            threading.Thread(target=_stop_on_eof, daemon=True).start()
        try:
            asyncio.run(app.run_worker(queues=queues, **options))
        except ValueError as error:
            raise click.UsageError(str(error)) from error


@click.group()
def tasks() -> None:
    """Work with what an app's tasks declare."""


@tasks.command()
@click.argument("place", metavar="MODULE:APP")
@with_target
def sync(target: Target, place: str) -> None:
    """Publish what the tasks of MODULE:APP declare, so that psql enqueues with it too.

    A worker does the same when it starts.
    """
    app = load_app(place)
    _point(app, target)
    client: SyncClient = app.sync
    with client:
        changed = client.define_tasks()
    if target.as_json:
        out.print_json({"changed": changed, "tasks": sorted(app.tasks)})
        return
    rows = [
        [out.text(name), out.text(task.fields.get("queue", "default")), _declared(task.fields)]
        for name, task in sorted(app.tasks.items())
    ]
    if rows:
        out.show(out.table("TASK", "QUEUE", "DECLARES", rows=rows))
    out.show(f"{changed} of {len(rows)} changed")


@contextlib.contextmanager
def _server(target: Target) -> Iterator[None]:
    """The server of the folder, brought to this schema; it wins over the environment."""
    from perdure._server import LocalServer

    with LocalServer(target.folder) as server:
        with connect(server.dsn) as conn:
            _schema.migrate(conn)
        print(f"server in {server.folder}, which keeps the data", file=sys.stderr)
        print(f"psql '{server.dsn}'", file=sys.stderr)
        if _dsn.named() is not None:
            os.environ["DATABASE_URL"] = server.dsn
        yield


def _point(app: App, target: Target) -> None:
    """Has the app, and whatever client its bodies use, talk to what the options say."""
    os.environ["PERDURE_FOLDER"] = str(target.folder)
    if target.database_url is not None:
        os.environ["DATABASE_URL"] = target.database_url
        app.dsn = app.sync.dsn = target.database_url
    if app.dsn is None:
        target.dsn()


def _queues(app: App) -> list[str]:
    """Every queue that a task names, the default one first if it is among them."""
    named = {str(task.fields.get("queue", "default")) for task in app.tasks.values()}
    return sorted(named, key=lambda name: (name != "default", name))


def _announce(target: Target, app: App, place: str, queues: list[str]) -> None:
    runnable = sorted(task.name for task in app.tasks.values() if not task.is_sleeping)
    if target.as_json:
        out.print_json({"app": place, "pid": os.getpid(), "queues": queues, "tasks": runnable})
        sys.stdout.flush()
    else:
        log = logging.getLogger("perdure")
        log.info("tasks %s from queues %s", ", ".join(runnable), ", ".join(queues))


def _stop_on_eof() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _declared(fields: Any) -> Any:
    return out.text(", ".join(f"{k} {v}" for k, v in fields.items() if k != "queue"))
