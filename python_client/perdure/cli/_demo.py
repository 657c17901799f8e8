"""`perdure demo`: the demo's job with two workers, one of which is killed half-way."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import click

from perdure import _schema
from perdure.cli import _output as out
from perdure.cli._schema import installed, where
from perdure.cli._target import Target, connect, with_target
from perdure.errors import PerdureError
from perdure.records import FINISHED, Status, StoredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from perdure import SyncClient

_PATIENCE = 120.0  # for the whole job
_READY_PATIENCE = 20.0  # for a worker to register
_POLL = 0.03
_STILL = 0.05  # how long a stopped worker's leases must not change
_LIVE: tuple[Status, ...] = (
    "ready",
    "running",
    "waiting_for_children",
    "waiting_for_finalize",
)


@dataclass(slots=True)
class Story:
    """What happened, for the report."""

    place: str = ""
    folder: str = ""
    library: str = ""
    root: int = 0
    files: int = 0
    executions: int = 0
    workers: list[int] = field(default_factory=list)  # process ids
    killed: int | None = None
    killed_at: int = 0  # files done by then
    held: list[int] = field(default_factory=list)  # executions that the killed worker ran
    recovered: list[int] = field(default_factory=list)
    status: str = ""
    error: StoredError | None = None
    seconds: float = 0.0
    index: dict[str, Any] | None = None
    is_identical: bool = False
    violations: int = 0
    problems: list[str] = field(default_factory=list)


@click.command(short_help="Run a job on real input that survives a kill.")
@with_target
def demo(target: Target) -> int:
    """Index the words of Python's standard library, and survive a kill on the way.

    Two worker processes run it, one of which gets SIGKILL half-way. The merged index is compared
    with one that was computed without the engine. Exit code 1 unless everything matched.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    story = Story(folder=str(target.folder.resolve()))
    target.folder.mkdir(parents=True, exist_ok=True)
    with _database(target, story) as dsn:
        _run(dsn, story, is_quiet=target.as_json)
    if target.as_json:
        out.print_json({"ok": not story.problems, **dataclasses.asdict(story)})
    else:
        out.show("", *_report(story))
    return 1 if story.problems else 0


@contextlib.contextmanager
def _database(target: Target, story: Story) -> Iterator[str]:
    """The named database, else the private server of the folder; with the schema."""
    from perdure._server import LocalServer

    if target.named is not None:
        with connect(target.named) as conn:
            if installed(conn) is None:
                _schema.migrate(conn)
            _schema.check_version(conn)
            story.place = where(conn)
        yield target.named
        return
    if not target.as_json:
        out.show(f"perdure demo: a private server in {story.folder}, which keeps the data")
    with LocalServer(target.folder) as server:
        with connect(server.dsn) as conn:
            _schema.migrate(conn)
            story.place = f"PostgreSQL {conn.info.parameter_status('server_version')}"
        yield server.dsn


def _run(dsn: str, story: Story, *, is_quiet: bool) -> None:
    from perdure import SyncClient, demo

    with connect(dsn) as conn, SyncClient(demo.app.tasks, dsn) as client:
        if not _row(conn, "select pg_try_advisory_lock(hashtextextended('perdure demo', 0))")[0]:
            raise PerdureError("another demo runs in this database: wait until it has ended")
        for left in _leftovers(client):
            client.cancel(left, "left by an earlier demo")
        story.library = str(demo.library_folder())
        story.files = len(demo.source_files(demo.library_folder()))
        with _workers(dsn, story) as workers:
            began = time.monotonic()
            story.root = client.enqueue(
                demo.index_library.call(library=story.library, folder=story.folder)
            ).id
            try:
                _follow(client, workers, story, is_quiet=is_quiet)
            except BaseException:
                client.cancel(story.root, "the demo was interrupted")
                raise
            story.seconds = round(time.monotonic() - began, 1)
        _judge(conn, client, story)


def _leftovers(client: SyncClient) -> list[int]:
    """Live roots of demos that were interrupted."""
    from perdure import demo

    return [
        execution.id
        for status in _LIVE
        for execution in client.executions(
            status=status, task=demo.PARENT, queue=demo.QUEUE, roots_only=True
        )
    ]


# Workers


@dataclass(frozen=True, slots=True)
class _Worker:
    """One worker process, and its number in the database."""

    process: subprocess.Popen[bytes]
    id: int


@contextlib.contextmanager
def _workers(dsn: str, story: Story) -> Iterator[list[_Worker]]:
    """Two worker processes that end with this one, whatever ends it."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in (1, 2):
            processes.append(_start(dsn, Path(story.folder) / f"demo-worker-{number}.log"))
        story.workers = [process.pid for process in processes]
        with connect(dsn) as conn:
            workers = [_Worker(process, _await_registered(conn, process)) for process in processes]
        yield workers
    finally:
        for process in processes:
            assert process.stdin
            process.stdin.close()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(dsn: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PERDURE_")}
    command = [sys.executable, "-m", "perdure", "worker", "perdure.demo:app", "--stop-on-eof"]
    command += ["--concurrency", "4", "--batch", "4", "--drain-timeout", "2s"]
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            env=environment | {"DATABASE_URL": dsn},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops them
        )


_REGISTERED: LiteralString = """
select max(w.id) from perdure.worker as w where w.info ->> 'pid' = %s and w.lost_at is null
"""


def _await_registered(conn: psycopg.Connection[Any], process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _READY_PATIENCE
    while process.poll() is None and time.monotonic() < end:
        (found,) = _row(conn, _REGISTERED, str(process.pid))
        if found is not None:
            return int(found)
        time.sleep(_POLL)
    raise PerdureError("a worker did not start: see demo-worker-*.log in the folder")


def _row(conn: psycopg.Connection[Any], query: LiteralString, *params: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] = conn.execute(query, params).fetchall()[0]
    return row


# The job


def _follow(client: SyncClient, workers: list[_Worker], story: Story, *, is_quiet: bool) -> None:
    """Watches the tree until it has ended, and kills a worker half-way."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = out.make_console()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None if console.width < 60 else 30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="bright_black"),
        console=console,
        transient=True,
        disable=is_quiet or not console.is_terminal,
    )
    end = time.monotonic() + _PATIENCE
    with bar:
        shown = bar.add_task("indexing", total=story.files + 2, note="two workers")
        while time.monotonic() < end:
            asked = time.monotonic()
            progress = client.tree_progress(story.root)
            done = sum(n for status, n in progress.items() if status in FINISHED)
            bar.update(shown, completed=done)
            if client.status(story.root) in FINISHED:
                return
            is_due = story.killed is None and 0 < story.files // 2 <= done
            if is_due and (held := _kill_if_busy(client, workers[0])):
                story.killed, story.killed_at = workers[0].process.pid, done
                story.held = held
                bar.update(shown, note=f"one killed, which ran {len(held)}")
            time.sleep(max(_POLL, 2 * (time.monotonic() - asked)))
    raise PerdureError(f"the job had not ended after {_PATIENCE:.0f} s")


def _kill_if_busy(client: SyncClient, victim: _Worker) -> list[int]:
    """SIGKILL, at a moment when the worker provably runs something: what that is.

    It is stopped first, so that what it holds can be read in peace: an exchange that is on its
    way ends in the database while the worker stands still.
    """
    os.kill(victim.process.pid, signal.SIGSTOP)
    try:
        held = _settled(lambda: _held(client, victim.id))
        if held:
            os.kill(victim.process.pid, signal.SIGKILL)
        return held
    finally:
        os.kill(victim.process.pid, signal.SIGCONT)


def _settled(look: Callable[[], list[int]]) -> list[int]:
    seen = look()
    while True:
        time.sleep(_STILL)
        if (now := look()) == seen:
            return seen
        seen = now


def _held(client: SyncClient, worker_id: int) -> list[int]:
    from perdure import demo

    running = client.executions(status="running", queue=demo.QUEUE)
    return sorted(execution.id for execution in running if execution.worker_id == worker_id)


# The verdict

_CRASHED: LiteralString = """
select distinct a.execution_id
from perdure.execution as e
join perdure.attempt as a on a.execution_id = e.id
join perdure.finished as f on f.id = e.id
where (e.parent_id = %(root)s or e.id = %(root)s)
  and a.status = 'crashed' and f.status = 'completed'
order by 1
"""


def _judge(conn: psycopg.Connection[Any], client: SyncClient, story: Story) -> None:
    from perdure import demo

    root = client.get(story.root)
    progress = client.tree_progress(story.root)
    story.executions = progress.get("completed", 0)
    story.status, story.error = root.status, root.error
    story.recovered = [row[0] for row in conn.execute(_CRASHED.encode(), {"root": story.root})]
    story.violations = len(client.fsck())
    tell = story.problems.append
    if story.killed is None:
        tell("no worker was killed: it held nothing at any moment that was tried")
    elif not set(story.held) <= set(story.recovered):
        tell("executions that the killed worker held were not recovered")
    if story.violations:
        tell(f"fsck found {story.violations} broken invariants: see `perdure fsck`")
    if root.status != "completed":
        reason = "" if root.error is None else f": {root.error.message}"
        tell(f"the job ended {root.status}{reason}")
        return
    if progress != {"completed": story.files + 2}:
        tell(f"of {story.files + 2} executions, {story.executions} completed")
    story.index = root.output
    content = Path(root.output["path"]).read_bytes()
    story.is_identical = content == demo.index_without_engine(Path(story.library))
    if not story.is_identical:
        tell("the merged index differs from the one computed without the engine")


def _report(story: Story) -> list[Any]:
    """What happened, in ten lines; and what should not have, each in one more."""
    index = story.index or {}
    ids = ", ".join(map(str, story.recovered[:5])) + (" …" if len(story.recovered) > 5 else "")
    top = ", ".join(word for word, _ in index.get("top", [])[:3])
    counts = f"{index.get('words', 0):,} words, {index.get('occurrences', 0):,} occurrences"
    killed = f"{story.killed} by SIGKILL after {story.killed_at} files, running {len(story.held)}"
    lines = [
        ("Database", story.place),
        ("Input", f"{story.files} source files in {story.library}"),
        ("Job", f"execution {story.root}: one child for each file, then one that merges"),
        ("Workers", f"two processes, {' and '.join(map(str, story.workers))}"),
        ("Killed", "none" if story.killed is None else killed),
        ("Recovered", f"{len(story.recovered)} executions, which the other worker ran: {ids}"),
        ("Finished", f"{story.executions} executions completed, in {story.seconds} s"),
        ("Index", f"{counts}, most of them {top}"),
        ("Compared", _comparison(story)),
        ("Verdict", _verdict(story)),
    ]
    style = "bold red" if story.problems else "bold green"
    rows = [(label, out.text(said)) for label, said in lines]
    rows[-1][1].stylize(style)
    problems = [("", out.text(problem, "red")) for problem in story.problems]
    return [out.facts([*rows, *problems])]


def _verdict(story: Story) -> str:
    found = f"{story.violations} broken invariants" if story.violations else "nothing amiss"
    matched = "NOT everything matched" if story.problems else "everything matched"
    return f"fsck found {found}; {matched}"


def _comparison(story: Story) -> str:
    if story.index is None:
        return "there is no index to compare"
    name = os.path.relpath(story.index["path"])
    if not story.is_identical:
        return f"{name} differs from an index computed without the engine"
    return f"{name} is, byte for byte, what a plain loop computes"
