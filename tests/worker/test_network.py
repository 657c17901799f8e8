"""Workers whose way to the database fails, or leads through a pooler."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_app import eventually
from fix_machines import Network, OwnServer, Pooler, Program, Proxy, await_that
from fix_server import Connect
from perdure import App
from perdure.testing import working

Conn = psycopg.Connection[Any]
Start = Callable[..., Program]

_SCRIPT = Path(__file__).parent / "worker_app.py"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts worker processes, on machines of their own where a prefix is given."""
    started: list[Program] = []

    def start(dsn: str, *arguments: str, prefix: Any = ()) -> Program:
        started.append(Program(_SCRIPT, *arguments, names={"DATABASE_URL": dsn}, prefix=prefix))
        return started[-1]

    yield start
    for program in started:
        program.close()


def outcome(conn: Conn, id_: int) -> Any:
    return conn.execute(
        "select status, worker_id, crashes from perdure.executions where id = %s", [id_]
    ).fetchone()


def all_completed(conn: Conn, ids: list[int]) -> bool:
    return all(outcome(conn, id_)[0] == "completed" for id_ in ids)


def enqueue(conn: Conn, task: str, value: Any) -> int:
    row = conn.execute("select perdure.enqueue(%s, to_jsonb(%s::float8))", [task, value]).fetchone()
    assert row
    return int(row[0])


def test_a_worker_that_is_cut_off_loses_its_work_within_its_ttl_and_a_second(
    network: Network, network_db: str, connect: Connect, start: Start
) -> None:
    conn = connect(network_db)
    conn.execute("update perdure.config set restart_grace = '0'")
    far, near = network.machines[0], network.machines[1]
    cut_off = start(far.dsn(network_db), "concurrency=1", "ttl=2", prefix=far.prefix)
    id_ = enqueue(conn, "nap", 4)
    cut_off.expect("napping")
    rescuer = start(near.dsn(network_db), "concurrency=1", "ttl=2", prefix=near.prefix)
    await_that(lambda: conn.execute("select from perdure.workers").rowcount == 2)
    far.cut()
    cut_at = time.monotonic()
    try:
        rescuer.expect("napping")
        assert time.monotonic() - cut_at < 2 + 1
        await_that(lambda: outcome(conn, id_)[0] == "completed")
    finally:
        far.mend()
    verdict = outcome(conn, id_)
    assert verdict[2] == 1, "the rescuer's outcome counts"
    # the other one comes back as a new incarnation, its late report is refused, and it works again
    await_that(lambda: conn.execute("select from perdure.workers where is_alive").rowcount == 2)
    assert outcome(conn, id_) == verdict
    workers: set[int] = set()
    give_up = time.monotonic() + 20
    while len(workers) < 2:
        assert time.monotonic() < give_up, "it never worked again"
        ids = [enqueue(conn, "nap", 0.2) for _ in range(2)]
        await_that(functools.partial(all_completed, conn, ids))
        workers |= {outcome(conn, each)[1] for each in ids}


def test_a_worker_that_freezes_in_the_middle_of_a_large_answer_loses_its_work_as_soon(
    network: Network, network_db: str, connect: Connect, start: Start
) -> None:
    conn, lock = connect(network_db), connect(network_db)
    conn.execute("update perdure.config set restart_grace = '0'")
    far = network.machines[0]
    frozen = start(far.dsn(network_db), "concurrency=20", "ttl=2", prefix=far.prefix)
    id_ = enqueue(conn, "nap", 60)
    frozen.expect("napping")
    with lock.transaction():
        lock.execute("select from perdure.worker for update")
        conn.execute(
            "select perdure.enqueue('nap', jsonb_build_object('much', ("
            "select string_agg(md5(random()::text), '') from generate_series(1, 20000)"
            "))) from generate_series(1, 12)"
        )
        blocked = "select from pg_stat_activity where pg_blocking_pids(pid) <> '{}'"
        await_that(lambda: conn.execute(blocked).rowcount == 1)
        frozen.send(signal.SIGSTOP)
    frozen_at = time.monotonic()
    try:
        waits = "select from pg_stat_activity where wait_event = 'ClientWrite'"
        await_that(lambda: conn.execute(waits).rowcount == 1)
        await_that(lambda: conn.execute("select perdure.sweep()") and outcome(conn, id_)[2] == 1)
        assert time.monotonic() - frozen_at < 2 + 1
    finally:
        frozen.send(signal.SIGCONT)


def test_a_restart_without_goodbyes_costs_no_work(
    private_server: OwnServer, private_db: str, start: Start
) -> None:
    workers = [start(private_db, "concurrency=2") for _ in range(2)]
    with psycopg.connect(private_db, autocommit=True) as conn:
        ids = [enqueue(conn, "nap", 2.0) for _ in range(4)]
        for worker in (workers[0], workers[0], workers[1], workers[1]):
            worker.expect("napping")
    private_server.stop_immediately()
    private_server.start()
    with psycopg.connect(private_db, autocommit=True) as conn:
        await_that(lambda: all_completed(conn, ids))
        assert [outcome(conn, id_)[2] for id_ in ids] == [0] * 4
        later = enqueue(conn, "nap", 0)
        await_that(lambda: outcome(conn, later)[0] == "completed")
        await_that(lambda: conn.execute("select from perdure.leaders where is_held").rowcount == 1)
        assert conn.execute("select * from perdure.fsck()").fetchall() == []


async def test_ears_that_died_silently_are_made_up_for_and_grow_again(
    app: App, db: str, start_proxy: Callable[[str], Proxy]
) -> None:
    """The control connection goes through something that swallows all, then lets new ones pass."""

    @app.task
    async def echo(value: Any, /) -> Any:
        return value

    proxy = start_proxy(db)
    async with working(app, direct_dsn=proxy.dsn, poll=1.0, ttl=2.0) as worker:
        await eventually(lambda: worker._control.is_hearing)
        proxy.fall_silent()
        assert await (await echo.enqueue(1)).result(5) == 1, "polled"
        proxy.speak()
        await eventually(lambda: proxy.opened > 4 and worker._control.is_hearing)
        assert await (await echo.enqueue(2)).result(5) == 2
        assert (await app.workers())[0].is_alive


async def test_notifications_that_get_lost_are_made_up_for(
    app: App, db: str, start_proxy: Callable[[str], Proxy]
) -> None:
    @app.task
    async def echo(value: Any, /) -> Any:
        return value

    proxy = start_proxy(db)
    async with working(app, direct_dsn=proxy.dsn, poll=0.5) as worker:
        await eventually(lambda: worker._control.is_hearing)
        proxy.is_deaf = True
        for n in range(3):
            assert await (await echo.enqueue(n)).result(5) == n


# Behind PgBouncer ---------------------------------------------------------------------------------


@pytest.fixture
def pooled(pooler: Pooler, db: str) -> str:
    """The test's database through PgBouncer in transaction mode."""
    return pooler.dsn(db)


def test_a_worker_behind_a_pooler_finds_out_and_works(
    pooled: str, db: str, conn: Conn, start: Start
) -> None:
    worker = start(pooled, "concurrency=5")
    ids = [enqueue(conn, "nap", 0.01) for _ in range(20)]
    await_that(lambda: all_completed(conn, ids))
    assert conn.execute("select mode, is_alive from perdure.workers").fetchall() == [
        ("lease", True)
    ]
    await_that(
        lambda: (
            conn.execute("select mode from perdure.leaders where is_held").fetchall()
            == [("lease",)]
        )
    )
    held = """
      select count(*) from pg_locks as l join pg_database as d on d.oid = l.database
      where l.locktype = 'advisory' and d.datname = current_database()
    """
    assert conn.execute(held).fetchone() == (0,), "no session lock leaks into the pooler"
    later = conn.execute("select perdure.enqueue('nap', '0', delay => '0.3 s')").fetchone()
    assert later
    await_that(lambda: outcome(conn, later[0])[0] == "completed")
    worker.send(signal.SIGTERM)
    assert worker.join() == 0
    assert conn.execute("select from perdure.workers").rowcount == 0
    assert conn.execute("select from perdure.worker_lease").rowcount == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_behind_a_pooler_a_dead_worker_loses_its_work_within_its_lease(
    pooled: str, conn: Conn, start: Start, number: signal.Signals
) -> None:
    conn.execute("update perdure.config set restart_grace = '0'")
    victim = start(pooled, "concurrency=1", "ttl=2")
    id_ = enqueue(conn, "nap", 4)
    victim.expect("napping")
    rescuer = start(pooled, "concurrency=1", "ttl=2")
    await_that(lambda: conn.execute("select from perdure.workers").rowcount == 2)
    victim.send(number)
    died_at = time.monotonic()
    rescuer.expect("napping", within=10)
    # the sweep's leadership was a lease of the dead one's too: 3 s
    assert time.monotonic() - died_at < 3 + 1 + 1
    await_that(lambda: outcome(conn, id_)[0] == "completed")
    assert outcome(conn, id_)[2] == 1
    victim.send(signal.SIGCONT)


def test_behind_a_pooler_a_hog_keeps_its_work(pooled: str, conn: Conn, start: Start) -> None:
    hog = start(pooled, "concurrency=1", "ttl=1")
    id_ = enqueue(conn, "block", 4)
    hog.expect("blocking")
    start(pooled, "concurrency=1", "ttl=1")
    await_that(lambda: outcome(conn, id_)[0] == "completed")
    assert outcome(conn, id_)[2] == 0


async def test_a_direct_connection_beside_the_pooler_is_used_for_listening(
    pooled: str, db: str, conn: Conn
) -> None:
    app = App(pooled)

    @app.task
    async def echo(value: Any, /) -> Any:
        return value

    async with app, working(app, direct_dsn=db, poll=60.0) as worker:
        await eventually(lambda: worker._control.is_hearing)
        assert (await app.workers())[0].mode == "session"
        for n in range(3):
            assert await (await echo.enqueue(n)).result(5) == n


async def test_clients_behind_a_pooler_prepare_nothing(pooled: str, db: str) -> None:
    async with App(pooled) as app:
        for _ in range(10):
            await app.enqueue("t", {})
        assert len(await app.executions()) == 10
        with app.sync as client:
            for _ in range(10):
                client.enqueue("t", {})
            assert len(client.executions()) == 20


def test_a_restarted_pooler_is_connected_to_again(
    pooler: Pooler, pooled: str, conn: Conn, start: Start
) -> None:
    worker = start(pooled, "concurrency=2", "ttl=5")
    first = enqueue(conn, "nap", 1.5)
    worker.expect("napping")
    pooler.kill()
    pooler.start()
    await_that(lambda: outcome(conn, first)[0] == "completed")
    assert outcome(conn, first)[2] == 0
    second = enqueue(conn, "nap", 0)
    await_that(lambda: outcome(conn, second)[0] == "completed")
    assert conn.execute("select count(*) from perdure.workers").fetchone() == (1,)
