"""What the benchmark measures with: a durable server, engines' programs, and meters around a run.

Every run has a database of its own, copied from one in which the engine was installed once. What is
metered: statements (pg_stat_statements, the engine's role alone), commits (less those of the
watcher's own questions), write-ahead log, the CPU time of the server's and of the engine's
processes, and how many cores all others kept busy meanwhile: such a run is noisy. Linux only: the
times come from /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import peers
from perdure._server import DURABLE, LocalServer, find_binaries
from perdure.errors import PerdureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Figures: TypeAlias = "dict[str, float]"

ENGINES = Path(__file__).parent / "engines"
OWN = ("perdure", "floor")
PEERS = ("procrastinate", "pgqueuer", "chancy", "oban", "dbos", "graphile")
ROLE = "engine"

SETTINGS: Mapping[str, str] = {
    **DURABLE,
    "autovacuum_naptime": "10s",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "300",
    "max_wal_size": "4GB",
    "min_wal_size": "1GB",
    "shared_buffers": "1GB",
    "synchronous_commit": "on",
}
SHOWN = (*sorted(SETTINGS), "server_version", "wal_sync_method", "shared_preload_libraries")

POLL = 0.01
PATIENCE = 30.0  # seconds until a program has to say or do something
LIMIT = 180.0  # seconds of one run
_TICK = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1


class Failed(Exception):  # noqa: N818
    """A run that came to no result."""


class Skipped(Exception):  # noqa: N818
    """An engine that is absent, or has no such thing; says why."""


# Programs -----------------------------------------------------------------------------------------


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Program:
    """One process of an engine. What it prints are records: a JSON object a line."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self._log = log
        self._records: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=kept,
                text=True,
                preexec_fn=_die_with_parent,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                if isinstance(record := json.loads(line), dict):
                    self._records.put(record)
        self._process.stdout.close()
        self._records.put(None)

    def hear(self, key: str, patience: float = LIMIT) -> dict[str, Any]:
        """The next record with this key."""
        end = time.monotonic() + patience
        while True:
            try:
                record = self._records.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f"nothing of {key!r} was heard within {patience:.0f} s") from None
            if record is None:
                raise Failed(f"the program ended: {self._last_words()}")
            if "unsupported" in record:
                raise Skipped(str(record["unsupported"]))
            if key in record:
                return record

    def hear_and_watch(self, key: str) -> tuple[dict[str, Any], float]:
        """The same, and the most memory that it had until then; looked at now and then."""
        end = time.monotonic() + LIMIT
        peak = 0.0
        while (said := self.has_said(key)) is None:
            if time.monotonic() > end:
                raise Failed(f"nothing of {key!r} was heard within {LIMIT:.0f} s")
            peak = self.peak_rss() or peak
            time.sleep(POLL)
        return said, peak

    def has_said(self, key: str) -> dict[str, Any] | None:
        """The same without waiting."""
        try:
            return self.hear(key, 0.0) if not self._records.empty() else None
        except Failed:
            if self._process.poll() is not None:
                raise
            return None

    def say(self) -> None:
        """Asks a sender for one more."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def check(self) -> None:
        """Raises Failed where it has ended."""
        if self._process.poll() is not None:
            raise Failed(f"the program ended: {self._last_words()}")

    def wait(self, patience: float = LIMIT) -> None:
        """Until it ends by itself, well."""
        try:
            code = self._process.wait(patience)
            self._hang_up()
            if code:
                raise Failed(f"the program failed: {self._last_words()}")
        except subprocess.TimeoutExpired:
            raise Failed(f"the program did not end within {patience:.0f} s") from None

    def end(self) -> None:
        """SIGTERM, and SIGKILL to what does not mind it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._hang_up()

    def _hang_up(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._reader.join(PATIENCE)

    def peak_rss(self) -> float:
        """Bytes; 0 once it has ended."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * float(line.split()[1])
        return 0.0

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit code {self._process.poll()}"


# Engines ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that is there: how to start its program, and what that says of itself."""

    name: str
    argv: tuple[str, ...]
    version: str
    settings: Mapping[str, Any]
    unfinished: str
    finalized: str | None
    template: str


def _argv(name: str) -> list[str]:
    if name in OWN:
        return [sys.executable, str(ENGINES / f"{name}_engine.py")]
    found = peers.prepare(name)
    if isinstance(found, peers.Absent):
        raise Skipped(f"absent: {found.reason}")
    return list(found)


# Meters -------------------------------------------------------------------------------------------


def _processes() -> dict[int, tuple[int, float]]:
    """Process → parent, and seconds of CPU with those of its ended children."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found[int(folder.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICK)
    return found


def _cpu_of(roots: Iterable[int], processes: Mapping[int, tuple[int, float]]) -> float:
    """Seconds of these processes and all below them."""
    wanted = set(roots)
    total = 0.0
    for process, (_, seconds) in processes.items():
        above: int | None = process
        while above and above not in wanted:
            above = processes[above][0] if above in processes else None
        if above:
            total += seconds
    return total


def _busy() -> float:
    """Seconds that all cores were not idle."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICK


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds until a moment."""

    at: float
    server: float
    client: float
    busy: float
    own: float


@dataclass(frozen=True, slots=True)
class Written:
    """What a database's statements came to until a moment."""

    statements: float | None
    wal_bytes: float
    wal_full_pages: float


# The rig ------------------------------------------------------------------------------------------


class Rig:
    """The server, and the engines that were asked for."""

    def __init__(self, place: Path | None = None) -> None:
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-bench-", dir=place))
        self._engines: dict[str, Engine | Skipped] = {}
        self._numbers = iter(range(1, sys.maxsize))

    def __enter__(self) -> Rig:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.has_statements = True
        preload = {"shared_preload_libraries": "pg_stat_statements"}
        self._server = LocalServer(self.folder / "server", settings={**SETTINGS, **preload})
        try:
            self._server.start()
        except PerdureError:
            self.has_statements = False
            self._server = LocalServer(self.folder / "server", settings=SETTINGS)
            self._server.start()
        pid = (self._server.data / "postmaster.pid").read_text().splitlines()[0]
        self.postmaster = int(pid)
        self.admin = psycopg.connect(self._server.dsn, autocommit=True)
        self.admin.execute(f"create role {ROLE} login createdb".encode())
        if self.has_statements:
            self.admin.execute("create extension pg_stat_statements")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AttributeError):
            self.admin.close()
        with contextlib.suppress(AttributeError):
            self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def binaries(self) -> Path:
        """Where the server's programs are."""
        return find_binaries()

    def settings(self) -> dict[str, str]:
        rows = self.admin.execute(
            "select name, coalesce(current_setting(name, true), '') "
            "from unnest(%s::text[]) as name",
            [list(SHOWN)],
        )
        return dict(rows.fetchall())

    def hardware(self) -> dict[str, Any]:
        return {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "file_system": _file_system(self.folder),
            "fdatasync_us": round(_fdatasync(self.folder)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "postgresql": self.settings()["server_version"],
        }

    # Databases

    def dsn(self, database: str, role: str = "postgres") -> str:
        """As a URL, which all drivers understand."""
        sockets = conninfo_to_dict(self._server.dsn)["host"]
        return f"postgresql://{role}@/{database}?host={sockets}"

    def create(self, template: str) -> str:
        """A new database; its name."""
        name = f"run_{next(self._numbers)}"
        statement = "create database {} template {} owner {} strategy file_copy"
        names = (sql.Identifier(part) for part in (name, template, ROLE))
        self.admin.execute(sql.SQL(statement).format(*names))
        return name

    def drop(self, database: str) -> None:
        statement = sql.SQL("drop database if exists {} with (force)")
        self.admin.execute(statement.format(sql.Identifier(database)))

    def engine(self, name: str) -> Engine:
        """Installed once, in a template; Skipped where it cannot be."""
        if name not in self._engines:
            try:
                self._engines[name] = self._install(name)
            except Skipped as skipped:
                self._engines[name] = skipped
            except Failed as failed:
                self._engines[name] = Skipped(f"absent: {failed}")
        found = self._engines[name]
        if isinstance(found, Skipped):
            raise found
        return found

    def _install(self, name: str) -> Engine:
        argv = _argv(name)
        template = self.create("template0")
        program = self.start([*argv, "install", self.dsn(template, ROLE)])
        program.wait(PATIENCE * 4)
        program = self.start([*argv, "describe", self.dsn(template, ROLE)])
        said = program.hear("unfinished", PATIENCE)
        program.wait(PATIENCE)
        self.await_departure(template)
        return Engine(
            name=name,
            argv=tuple(argv),
            version=said["version"],
            settings=said["settings"],
            unfinished=said["unfinished"],
            finalized=said.get("finalized"),
            template=template,
        )

    def start(self, argv: Sequence[str]) -> Program:
        return Program(argv, self.folder / f"log_{next(self._numbers)}")

    @contextlib.contextmanager
    def database(self, name: str, template: str | None = None) -> Iterator[Database]:
        """A fresh one of an engine; gone afterwards."""
        engine = self.engine(name)
        database = Database(self, engine, self.create(template or engine.template))
        try:
            yield database
        finally:
            database.close()
            self.drop(database.name)

    def keep(self, name: str, prepare: Callable[[Database], None]) -> str:
        """A template that has something in it; the caller drops it."""
        engine = self.engine(name)
        database = Database(self, engine, self.create(engine.template))
        try:
            prepare(database)
        finally:
            database.close()
        self.await_departure(database.name)
        return database.name

    def await_departure(self, database: str) -> None:
        """Until no engine is connected there: then what it did is known to the statistics."""
        query = "select count(*) from pg_stat_activity where datname = %s and usename = %s"
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.admin.execute(query, [database, ROLE]).fetchone() == (0,):
                return
            time.sleep(POLL)


class Database:
    """One engine in a database of its own."""

    def __init__(self, rig: Rig, engine: Engine, name: str) -> None:
        self.rig = rig
        self.engine = engine
        self.name = name
        self.dsn = rig.dsn(name, ROLE)
        # Planned anew each time: a plan kept from when a room was empty reads all of it later.
        self.watch = psycopg.connect(rig.dsn(name), autocommit=True, prepare_threshold=None)
        self.watcher = self.watch.info.backend_pid
        self.programs: list[Program] = []
        self._asked = 0

    def close(self) -> None:
        for program in self.programs:
            program.end()
        self.watch.close()

    def ask(self, query: str, *parameters: Any) -> Any:
        """One value, asked by the watcher: its statements and commits are not counted."""
        self._asked += 1
        row = self.watch.execute(query.encode(), parameters or None).fetchone()
        return row[0] if row else None

    def run(self, statement: str, *parameters: Any) -> None:
        """One statement of the watcher's."""
        self._asked += 1
        self.watch.execute(statement.encode(), parameters or None)

    # Meters

    def cpu(self, clients: Sequence[Program]) -> Cpu:
        processes = _processes()
        watching = processes[self.watcher][1]  # works for the rig alone
        return Cpu(
            at=time.monotonic(),
            server=_cpu_of([self.rig.postmaster], processes) - watching,
            client=_cpu_of([program.pid for program in clients], processes),
            busy=_busy(),
            own=time.process_time() + watching,
        )

    def written(self) -> Written:
        statements = None
        if self.rig.has_statements:
            row = self.rig.admin.execute(
                "select coalesce(sum(s.calls), 0)::float8 from pg_stat_statements as s"
                " join pg_database as d on d.oid = s.dbid"
                " where d.datname = %s and s.userid = %s::regrole",
                [self.name, ROLE],
            ).fetchone()
            statements = row[0] if row else None
        row = self.rig.admin.execute(
            "select (pg_current_wal_insert_lsn() - '0/0')::float8, wal_fpi::float8 from pg_stat_wal"
        ).fetchone()
        assert row
        return Written(statements, *row)

    def commits(self) -> float:
        """So far, but for the watcher's. A session tells the statistics when it ends."""
        self.run("select pg_stat_force_next_flush()")
        asked = self._asked
        count = self.ask(
            "select xact_commit::float8 from pg_stat_database where datname = current_database()"
        )
        return float(count) - asked

    # Work

    def start(self, *argv: str) -> Program:
        program = self.rig.start([*self.engine.argv, *argv])
        self.programs.append(program)
        return program

    def work(self, options: Mapping[str, Any] | None = None) -> Program:
        """A worker, started."""
        return self.start("work", self.dsn, "--options", json.dumps(dict(options or {})))

    def send(self) -> Program:
        """A sender, connected."""
        program = self.start("send", self.dsn)
        program.hear("ready", PATIENCE)
        return program

    def start_enqueue(
        self, what: str, how: str, count: int, options: Mapping[str, Any] | None = None
    ) -> Program:
        given = json.dumps(dict(options or {}))
        return self.start("enqueue", self.dsn, what, how, str(count), "--options", given)

    def enqueue(
        self, what: str, how: str, count: int, options: Mapping[str, Any] | None = None
    ) -> Figures:
        """Enqueues; what it took."""
        before, commits, cpu = self.written(), self.commits(), self.cpu([])
        program = self.start_enqueue(what, how, count, options)
        said, peak = program.hear_and_watch("seconds")
        program.wait(PATIENCE)
        self.programs.remove(program)
        if not self.programs:  # no worker either
            self.rig.await_departure(self.name)
        figures = {
            "seconds": said["seconds"],
            "executions": count,
            "per_second": count / said["seconds"],
            "peak_rss_mb": peak / 1e6,
            "server_us": 1e6 * (self.cpu([]).server - cpu.server) / count,
            "commits": (self.commits() - commits) / count,
            **_per_execution(before, self.written(), count),
        }
        if "cpu" in said:
            figures["client_us"] = 1e6 * said["cpu"] / count
        return figures

    def settle(self) -> None:
        """What is there is known to the planner, and nothing is left to write to the tables."""
        self.run("analyze")
        self.run("checkpoint")

    def wait(self, workers: Sequence[Program], unfinished: str, *, every: float = POLL) -> float:
        """Until nothing is left; when that was."""
        end = time.monotonic() + LIMIT
        polled = 0
        while self.ask(unfinished):
            polled += 1
            if polled % 100 == 0:
                for worker in workers:
                    worker.check()
            if time.monotonic() > end:
                raise Failed(f"not done within {LIMIT:.0f} s")
            time.sleep(every)
        return time.monotonic()

    def drain(
        self,
        executions: int,
        *,
        processes: int = 1,
        options: Mapping[str, Any] | None = None,
        unfinished: str | None = None,
        every: float = POLL,
    ) -> Figures:
        """Starts workers and meters them from the first body until nothing is unfinished."""
        before, commits = self.written(), self.commits()
        workers = [self.work(options) for _ in range(processes)]
        began = _first(workers)
        cpu = self.cpu(workers)
        ended = self.wait(workers, unfinished or self.engine.unfinished, every=every)
        spent = self.cpu(workers)
        peak = max(worker.peak_rss() for worker in workers)
        after = self.written()
        for worker in workers:
            worker.end()
            self.programs.remove(worker)
        self.rig.await_departure(self.name)
        seconds = ended - began
        client = spent.client - cpu.client
        server = spent.server - cpu.server
        others = (spent.busy - cpu.busy) - client - server - (spent.own - cpu.own)
        return {
            "seconds": seconds,
            "executions": executions,
            "per_second": executions / seconds,
            "server_us": 1e6 * server / executions,
            "client_us": 1e6 * client / executions,
            "others": max(0.0, others / (spent.at - cpu.at)),
            "peak_rss_mb": peak / 1e6,
            "commits": (self.commits() - commits) / executions,
            **_per_execution(before, after, executions),
        }

    def latency(self, samples: int, *, longest_gap: float = 0.075) -> Figures:
        """Idle latency: one `stamp` after the other, a random while after each."""
        worker, sender = self.work(), self.send()
        from_commit, from_call = [], []
        for number in range(-3, samples):  # the first ones find caches empty
            sender.say()
            sent = sender.hear("committed", PATIENCE)
            began = worker.hear("stamped", PATIENCE)["stamped"]
            if number >= 0:
                from_commit.append(1000 * (began - sent["committed"]))
                from_call.append(1000 * (began - sent["called"]))
            time.sleep(random.uniform(0.01, longest_gap))
        return {
            "executions": samples,
            **quantiles(from_commit),
            **{f"call_{name}": value for name, value in quantiles(from_call).items()},
        }


def _first(workers: Sequence[Program]) -> float:
    """When the first body of any of them began."""
    end = time.monotonic() + PATIENCE * 2
    while time.monotonic() < end:
        for worker in workers:
            if (said := worker.has_said("begun")) is not None:
                return float(said["begun"])
        time.sleep(0.001)
    raise Failed(f"no body began within {PATIENCE * 2:.0f} s")


def _per_execution(before: Written, after: Written, executions: int) -> Figures:
    figures = {
        "wal_bytes": (after.wal_bytes - before.wal_bytes) / executions,
        "wal_full_pages": (after.wal_full_pages - before.wal_full_pages) / executions,
    }
    if before.statements is not None and after.statements is not None:
        figures["statements"] = (after.statements - before.statements) / executions
    return figures


def quantiles(milliseconds: Sequence[float]) -> Figures:
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {
        "p50_ms": cuts[49],
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
        "max_ms": max(milliseconds),
    }


# The machine --------------------------------------------------------------------------------------


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    """Of the data: on tmpfs nothing is durable."""
    best = ("", "?")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, kind = line.split()[:3]
            if folder.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
                best = (mount, kind)
    return best[1]


def _fdatasync(folder: Path, times: int = 200) -> float:
    """Median µs of writing 8 kB and having it on the disk."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 24)
        os.fsync(file.fileno())
        taken = []
        for number in range(times):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 8192, 8192 * number)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)
