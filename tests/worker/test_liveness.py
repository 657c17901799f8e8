"""Who lives keeps its work, however busy; who does not loses it soon; a ghost is refused."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fix_app import PATIENCE, WorkerProcess, eventually
from perdure import App, Worker
from perdure._direct import Direct
from perdure.errors import CannotConnect
from perdure.testing import working

Start = Callable[..., WorkerProcess]
Conn = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _server_is_long_up(conn: Conn) -> None:
    """Else nobody is given up in the first seconds after its start."""
    conn.execute("update perdure.config set restart_grace = '0'")


_READY = 2.0  # seconds within which a killed worker's executions are back in line


def machine_ids(conn: Conn) -> list[int]:
    return [row[0] for row in conn.execute("select machine_id from perdure.workers order by 1")]


@pytest.mark.parametrize(
    "queue", ["other", "default"], ids=["a sweeper is there", "the sweeper itself died"]
)
def test_executions_of_a_killed_worker_are_ready_within_two_seconds(
    app: App, start_worker: Start, conn: Conn, queue: str
) -> None:
    victim = start_worker("concurrency=3")
    ids = [app.sync.enqueue("nap", 60).id for _ in range(3)]
    for _ in ids:
        victim.expect("napping")
    survivor = start_worker(f"queues={queue}")
    witness = app.sync.enqueue("nap", 60, queue=queue)
    survivor.expect("napping")
    assert witness.status() == "running"
    victim.kill()
    killed_at = time.monotonic()
    recovered = "select count(*) from perdure.executions where id = any(%s) and crashes = 1"
    while conn.execute(recovered, [ids]).fetchone() != (3,):
        assert time.monotonic() - killed_at < 10
        time.sleep(0.005)
    assert time.monotonic() - killed_at < _READY
    assert machine_ids(conn) == [2]
    assert witness.get().crashes == 0


def test_a_frozen_worker_loses_its_work_within_its_ttl_and_a_second_and_is_refused_afterwards(
    app: App, start_worker: Start, conn: Conn
) -> None:
    frozen = start_worker("concurrency=1", "ttl=2")
    handle = app.sync.enqueue("nap", 0.5)
    frozen.expect("napping")
    frozen.send(signal.SIGSTOP)
    frozen_at = time.monotonic()
    rescuer = start_worker("concurrency=1", "ttl=2")
    rescuer.expect("napping")
    assert time.monotonic() - frozen_at < 2 + 1
    assert handle.result(10) == "attempt 1"
    worker_id = conn.execute("select worker_id from perdure.finished").fetchone()
    frozen.send(signal.SIGCONT)
    again = app.sync.enqueue_many([app.sync.resolve("echo", n) for n in range(50)])
    for one in again:
        assert app.sync.handle(one.id or 0).wait(10).is_completed
    frozen.terminate()
    frozen.join()
    assert "no longer knows this worker" in frozen.errors()
    assert conn.execute(
        "select worker_id, crashes from perdure.finished where id = %s", [handle.id]
    ).fetchone() == (worker_id and worker_id[0], 1)


def hung_up(conn: Conn) -> list[int]:
    """Ends the control sessions of workers; their server processes."""
    ended = conn.execute(
        "select pid, pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'perdure control' and datname = current_database()"
    )
    return [row[0] for row in ended]


def shows_life(conn: Conn) -> set[int]:
    """The server processes that hold a worker's lock."""
    holding = conn.execute(
        "select l.pid from pg_locks as l join perdure.worker as w on l.objid = w.id"
        " where l.locktype = 'advisory' and l.granted and l.database = ("
        "  select d.oid from pg_database as d where d.datname = current_database()"
        " )"  # tests beside this one have workers with the same numbers
    )
    return {row[0] for row in holding}


def other_life(conn: Conn, gone: set[int]) -> set[int]:
    return shows_life(conn) - gone


@pytest.mark.parametrize("task", ["block", "burn"])
def test_a_body_that_hogs_the_process_for_many_ttls_is_not_run_again(
    app: App, start_worker: Start, conn: Conn, task: str
) -> None:
    hog = start_worker("concurrency=1", "ttl=1")
    handle = app.sync.enqueue(task, 6, max_attempts=3)
    hog.expect("blocking" if task == "block" else "burning")
    start_worker("concurrency=1", "ttl=1")
    assert handle.result(20) == 1
    assert handle.get().crashes == 0
    assert machine_ids(conn) == [1, 2], "nobody was given up"


async def test_a_terminated_control_session_costs_nothing(app: App, conn: Conn) -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    @app.task
    async def hold() -> int:
        begun.set()
        await gate.wait()
        return 1

    async with working(app) as worker:
        handle = await hold.enqueue()
        await begun.wait()
        for _ in range(3):
            gone = set(hung_up(conn))
            assert len(gone) == 1
            await eventually(functools.partial(other_life, conn, gone))
        await eventually(lambda: worker._control.is_hearing)
        gate.set()
        assert await handle.result(10) == 1
        assert (await handle.get()).crashes == 0
        assert machine_ids(conn) == [1]


def test_machine_ids_are_the_smallest_free_ones(app: App, start_worker: Start, conn: Conn) -> None:
    def start(queue: str) -> WorkerProcess:
        process = start_worker("ttl=1", f"queues={queue}")
        app.sync.enqueue("nap", 60, queue=queue)
        process.expect("napping")
        return process

    processes = [start(f"queue {n}") for n in range(3)]
    assert machine_ids(conn) == [1, 2, 3]
    processes[1].kill()
    give_up = time.monotonic() + 10
    while machine_ids(conn) != [1, 3]:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    start("another queue")
    assert machine_ids(conn) == [1, 2, 3]


async def test_a_direct_way_that_leads_nowhere_ends_the_worker_with_the_reason(app: App) -> None:
    app.task(name="x")(lambda: None)
    worker = Worker(app, direct_dsn="host=/nowhere", install_signals=False)
    with pytest.raises(CannotConnect, match="/nowhere"):
        await asyncio.wait_for(worker.run(), PATIENCE)


async def test_a_defect_ends_neither_the_signs_of_life_nor_the_sweeps(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="x")(lambda: None)
    real = Direct.wait
    broken: set[str] = set()

    def wait(self: Direct, timeout: float) -> Any:
        thread = threading.current_thread().name
        if thread not in broken and self.is_open and time.monotonic() > broken_from:
            broken.add(thread)
            raise ValueError("a defect")
        return real(self, timeout)

    monkeypatch.setattr(Direct, "wait", wait)
    broken_from = float("inf")
    async with working(app) as worker:
        await eventually(worker._sweeper.led)
        broken_from = 0.0
        worker._control.wake_others()
        await eventually(lambda: {"perdure-control", "perdure-sweeper"} <= broken)
        await eventually(lambda: worker._control.is_hearing)
        asleep = await app.enqueue("x", sleeping=True, key="k", timeout=0.1)
        assert (await asleep.wait(10)).status == "timed_out"
    assert caplog.text.count("ValueError: a defect") >= 2


async def test_the_public_functions_are_all_that_a_worker_needs(db: str, conn: Conn) -> None:
    role = f"perdure_test_worker_{os.getpid()}"
    conn.execute(f"create role {role} login".encode())
    conn.execute(f"grant usage on schema perdure to {role}".encode())
    public = conn.execute(
        "select oid::regprocedure::text from pg_proc"
        " where pronamespace = 'perdure'::regnamespace and proname !~ '^_'"
    ).fetchall()
    for (function,) in public:
        conn.execute(f"grant execute on routine {function} to {role}".encode())
    app = App(make_conninfo(db, user=role))
    app.task(name="x")(lambda: None)
    try:
        async with working(app) as worker:
            await eventually(worker._sweeper.led)
            assert worker._control.is_hearing
            assert await (await app.enqueue("x")).result(PATIENCE) is None
    finally:
        await app.close()
        conn.execute(f"drop owned by {role}".encode())
        conn.execute(f"drop role {role}".encode())


def test_a_child_that_a_body_forked_does_not_keep_its_worker_alive(
    app: App, start_worker: Start, conn: Conn
) -> None:
    victim = start_worker("concurrency=1")
    handle = app.sync.enqueue("fork", 60)
    child = int(victim.expect("forked").split()[0])
    survivor = start_worker("queues=other")
    app.sync.enqueue("nap", 0, queue="other")
    survivor.expect("napping")
    victim.kill()
    killed_at = time.monotonic()
    try:
        while handle.status() != "ready":
            assert time.monotonic() - killed_at < 8
            time.sleep(0.005)
        assert time.monotonic() - killed_at < _READY
    finally:
        os.kill(child, signal.SIGKILL)
