"""What survives: a killed worker, a restarted server, a lost reply, an upgraded schema."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_app import WorkerProcess, eventually, hang_up
from perdure import App, Worker, _calls, _schema, current
from perdure._reports import report
from perdure._server import THROW_AWAY, LocalServer, find_binaries
from perdure.testing import working

Start = Callable[..., WorkerProcess]
Conn = psycopg.Connection[Any]


def test_the_work_of_a_killed_worker_is_done_by_another_within_five_seconds(
    app: App, start_worker: Start
) -> None:
    first, second = start_worker("concurrency=1"), start_worker("concurrency=1")
    handles = [app.sync.enqueue("nap", 1), app.sync.enqueue("nap", 1)]
    running = {int(process.expect("napping")): process for process in (first, second)}
    victim = running.pop(handles[0].id)
    victim.kill()
    killed_at = time.monotonic()
    (survivor,) = running.values()
    assert int(survivor.expect("napping")) == handles[0].id
    assert time.monotonic() - killed_at < 5
    assert handles[0].result(10) == "attempt 1"  # a crash uses no attempt
    assert handles[1].result(10) == "attempt 1"
    assert [handle.get().crashes for handle in handles] == [1, 0]


async def test_a_lost_connection_loses_no_lease_and_no_report(app: App, conn: Conn) -> None:
    gate = asyncio.Event()
    runs: list[int] = []

    @app.task
    async def hold() -> int:
        runs.append(current().execution_id)
        await gate.wait()
        return current().attempt

    async with working(app):
        ids = [e.id or 0 for e in await app.enqueue_many([hold] * 20)]
        await eventually(lambda: len(runs) == 20)
        assert hang_up(conn) == 1
        gate.set()
        ended = [await app.wait(id_, 10) for id_ in ids]
    assert [e.output for e in ended] == [1] * 20
    assert sorted(runs) == sorted(ids)
    assert {(await app.get(id_)).crashes for id_ in ids} == {0}


async def test_a_report_whose_exchange_was_cut_off_is_sent_again(
    app: App, conn: Conn, connect: Callable[..., Conn]
) -> None:
    gate = asyncio.Event()
    runs = []

    @app.task
    async def once() -> str:
        runs.append(1)
        await gate.wait()
        return "kept"

    async with working(app):
        handle = await once.enqueue()
        await eventually(lambda: runs)
        with connect(autocommit=False) as blocking:
            blocking.execute("select from perdure.worker for update")
            gate.set()
            await eventually(lambda: hangs(conn))
            assert hang_up(conn) == 1
        assert await handle.result(10) == "kept"
    assert len(runs) == 1
    assert (await handle.get()).crashes == 0


def hangs(conn: Conn) -> bool:
    """Whether a worker's call waits for a lock."""
    waiting = conn.execute(
        "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
        " and application_name = 'perdure worker' and datname = current_database()"
    )
    return bool(waiting.fetchall())


async def test_a_report_whose_reply_was_lost_counts_once(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []

    @app.task(max_attempts=3)
    async def once() -> str:
        runs.append(1)
        return "kept"

    async with working(app) as worker:
        session, is_lost = worker._session, False
        real = type(session).receive

        async def lossy(self: Any, sent: Any) -> Any:
            nonlocal is_lost
            reply = await real(self, sent)
            if sent.reports and not is_lost:
                is_lost = True
                hang_up(conn)
                raise psycopg.OperationalError("the reply was lost")
            return reply

        monkeypatch.setattr(type(session), "receive", lossy)
        with caplog.at_level(logging.DEBUG, "perdure"):
            handle = await once.enqueue()
            assert await handle.result(10) == "kept"
            await eventually(lambda: "already" in caplog.text)
    assert len(runs) == 1


async def test_what_was_claimed_in_a_lost_reply_goes_back_unharmed(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def once() -> tuple[int, int]:
        return current().attempt, current().crashes

    async with working(app) as worker:
        session, lost = worker._session, list[Any]()
        real = type(session).receive

        async def lossy(self: Any, sent: Any) -> Any:
            reply = await real(self, sent)
            if reply.claimed and not lost:
                lost.extend(reply.claimed)
                raise psycopg.OperationalError("the reply was lost")
            return reply

        monkeypatch.setattr(type(session), "receive", lossy)
        handle = await once.enqueue()
        assert await handle.result(10) == (1, 0)
    assert lost[0][0] == handle.id


async def test_a_worker_that_was_given_up_registers_anew_and_stops_its_bodies(
    app: App, conn: Conn
) -> None:
    interrupted = asyncio.Event()
    attempts: list[int] = []

    @app.task
    async def hold() -> str:
        attempts.append(current().attempt)
        if len(attempts) == 1:
            try:
                await asyncio.sleep(60)
            finally:
                interrupted.set()
        return "ran again"

    async with working(app):
        handle = await hold.enqueue()
        await eventually(lambda: attempts)
        conn.execute("select perdure.unregister_worker(incarnation) from perdure.worker")
        await asyncio.wait_for(interrupted.wait(), 5)
        assert await handle.result(10) == "ran again"
    assert attempts == [1, 1]


async def test_a_stale_report_is_refused_and_told(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Semaphore(0)
    gate = asyncio.Event()

    @app.task
    async def slow() -> int:
        begun.release()
        with_token = current().attempt
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()  # carries on, as a body in native code would
        return with_token

    async with working(app) as worker:
        handle = await slow.enqueue()
        await begun.acquire()
        lease = worker._leases[handle.id]
        conn.execute(
            "select f.result from perdure.finish((select incarnation from perdure.worker),"
            " jsonb_build_array(jsonb_build_object('id', %s::bigint, 'token', %s::int,"
            " 'outcome', 'released'))) as f",
            [handle.id, lease.token],
        )
        await begun.acquire()  # claimed again, under another token
        assert worker._leases[handle.id].token > lease.token
        worker._reports.append(report(handle.id, lease.token, "completed", output="stale"))
        worker._stir.set()
        await eventually(lambda: "lost" in caplog.text)
        assert await handle.status() == "running"
        gate.set()
        assert await handle.result(10) == 1


async def test_a_replaced_exchange_is_prepared_anew(app: App, conn: Conn) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        return n

    async with working(app):
        for n in range(8):  # enough for the statement to be prepared
            assert await (await echo.enqueue(n)).result(10) == n
        with conn.transaction():
            conn.execute("create schema before")
            conn.execute("alter function perdure.exchange set schema before")
            conn.execute(
                """
                create function perdure.exchange(
                  worker uuid, outcomes jsonb default null, want int default 0,
                  queues text[] default null, tasks text[] default null,
                  held bigint[] default null, call bigint default null, after jsonb default null,
                  out results jsonb, out claimed jsonb, out gone bigint[], out more boolean,
                  out wait_ms bigint, out next_after jsonb, out wake boolean
                ) language sql as $$
                  select results::jsonb, claimed::jsonb, gone, more, wait_ms, next_after, wake
                  from before.exchange(
                    worker, outcomes, want, queues, tasks, held, call, after
                  )
                $$
                """
            )
        for n in range(8):
            assert await (await echo.enqueue(n)).result(10) == n
        conn.execute("drop function perdure.exchange")
        conn.execute("alter function before.exchange set schema perdure")
        assert await (await echo.enqueue(9)).result(10) == 9


async def test_discarded_statements_are_prepared_anew(app: App, conn: Conn) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        return n

    async with working(app) as worker:
        for n in range(8):
            assert await (await echo.enqueue(n)).result(10) == n
        await eventually(lambda: prepared(worker))
        wire = worker._session._wire
        assert wire is not None
        async with wire.aside() as connection:  # as a pooler would, behind the client's back
            connection.pgconn.exec_(b"deallocate all")
        assert await (await echo.enqueue(9)).result(10) == 9


def prepared(worker: Worker) -> bool:
    return worker._session._wire is not None and bool(worker._session._wire._names)


@pytest.mark.parametrize("batch", [100, 2])
async def test_a_migration_beneath_a_running_worker_does_not_stop_it(
    app: App, conn: Conn, db: str, batch: int
) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        await asyncio.sleep(0.001)
        return n

    async with working(app, concurrency=5, batch=batch):
        ids = [e.id or 0 for e in await app.enqueue_many([echo.call(n) for n in range(300)])]
        with psycopg.connect(db) as other:
            await asyncio.to_thread(_schema.migrate, other)
        ended = [await app.wait(id_, 20) for id_ in ids]
    assert [e.output for e in ended] == list(range(300))


@pytest.mark.parametrize("batch", [100, 2])
async def test_an_outcome_that_the_database_chokes_on_fails_alone(app: App, batch: int) -> None:
    @app.task(max_attempts=3)
    async def give(n: int, /) -> int:
        return n

    async with working(app, batch=batch) as worker:
        real = worker._report

        def poisoned(lease: Any, made: Any) -> None:  # a NUL that got past the client
            data = made.data.replace(b'"output":13', b'"output":"\\u0000"')
            real(lease, type(made)(made.id, made.token, data))

        worker._report = poisoned  # type: ignore[method-assign, assignment]
        ids = [e.id or 0 for e in await app.enqueue_many([give.call(n) for n in range(20)])]
        ended = [await app.wait(id_, 10) for id_ in ids]
    assert [e.status for e in ended] == ["completed"] * 13 + ["failed"] + ["completed"] * 6
    error = ended[13].error
    assert error is not None
    assert error.type == "invalid_outcome"
    assert "the database refused the outcome: unsupported Unicode" in error.message


async def test_a_failing_exchange_is_tried_again(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        return n

    async with working(app):
        conn.execute("alter function perdure.exchange rename to _hidden")
        handle = await echo.enqueue(1)
        await eventually(lambda: "the exchange was lost" in caplog.text)
        conn.execute("alter function perdure._hidden rename to exchange")
        assert await handle.result(10) == 1


async def test_a_failing_sweep_is_logged_once_and_tried_again(
    app: App, conn: Conn, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="x")(lambda: None)
    conn.execute("alter function perdure.sweep_led rename to _hidden")
    async with working(app):
        await eventually(lambda: "sweep: " in caplog.text)
        conn.execute("alter function perdure._hidden rename to sweep_led")
        asleep = await app.enqueue("x", sleeping=True, key="k", timeout=0.1)
        assert (await asleep.wait(10)).status == "timed_out"
    assert caplog.text.count("sweep: ") == 1


async def test_a_worker_that_was_given_up_stops_its_bodies_and_itself_before_it_can_register_anew(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    @app.task
    async def hold() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    conn.execute("update perdure.config set worker_grace = '0', restart_grace = '0'")
    async with asyncio.timeout(20):
        async with working(app, sweeper=False) as worker:
            await hold.enqueue()
            await begun.wait()
            monkeypatch.setattr(worker._control._direct, "_dsn", "host=/nowhere")
            hang_up(conn, "perdure control")
            conn.execute("select perdure.sweep()")
            await stopped.wait()


async def test_a_worker_stops_although_the_database_is_gone(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.task(name="x")(lambda: None)
    async with working(app, drain_timeout=0.2) as worker:
        await eventually(lambda: worker._session._call > 0)
        monkeypatch.setattr(worker._session, "_dsn", "host=/nowhere")
        hang_up(conn)
        await eventually(lambda: worker._session._connection is None)
    await app.sweep()


async def test_a_schema_that_became_too_new_ends_the_worker(app: App, conn: Conn) -> None:
    from perdure.errors import SchemaNewer

    app.task(name="x")(lambda: None)
    worker = Worker(app, install_signals=False)
    running = asyncio.create_task(worker.run())
    await eventually(lambda: worker._session._call > 0)
    own = _schema.client_version()
    body = (
        "create or replace function perdure.version() returns text"
        " language sql as $$ select '{}' $$"
    )
    conn.execute(body.format("99.0.0"))
    hang_up(conn)
    with pytest.raises(SchemaNewer):
        await running
    conn.execute(body.format(own))


@asynccontextmanager
async def own_server(folder: Path) -> AsyncIterator[LocalServer]:
    """A server that only this test uses, so that it may be restarted."""
    with LocalServer(folder, binaries=find_binaries(), settings=THROW_AWAY) as local:
        with psycopg.connect(local.dsn) as conn:
            _schema.migrate(conn)
        yield local


@pytest.mark.slow
async def test_a_restart_of_the_server_is_survived(tmp_path: Path) -> None:
    async with own_server(tmp_path / "server") as local:
        app = App(local.dsn)
        gate = asyncio.Event()
        runs: list[int] = []

        @app.task
        async def hold() -> tuple[int, int]:
            runs.append(current().execution_id)
            await gate.wait()
            return current().attempt, current().crashes

        @app.task
        async def quick(n: int, /) -> int:
            return n

        async with working(app, drain_timeout=10):
            ids = [e.id or 0 for e in await app.enqueue_many([hold] * 10)]
            await eventually(lambda: len(runs) == 10)
            await asyncio.to_thread(local.restart)
            gate.set()
            ended = [await app.wait(id_, 20) for id_ in ids]
            assert [e.output for e in ended] == [[1, 0]] * 10
            assert await (await quick.enqueue(5)).result(10) == 5
        assert sorted(runs) == sorted(ids)
        assert await app.fsck() == []
        await app.close()


async def test_two_workers_sweep_at_once_without_harm(app: App, db: str) -> None:
    @app.task
    async def quick() -> None: ...

    other = App(db)
    other.task(name="quick")(quick.fn)
    async with working(app), working(other):
        ids = [e.id or 0 for e in await app.enqueue_many([quick] * 200, delay=0.3)]
        for id_ in ids:
            assert (await app.wait(id_, 20)).is_completed
    await other.close()


def test_calls_that_only_read_are_marked() -> None:
    assert _calls.outcomes([1]).is_read
    assert not _calls.cancel(1, None).is_read


async def test_a_worker_that_is_cancelled_while_it_resumes_leaves_nothing_behind(
    app: App, conn: Conn
) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        return n

    worker = Worker(app, install_signals=False)
    running = asyncio.create_task(worker.run())
    with psycopg.connect(conn.info.dsn) as holder:
        await eventually(lambda: worker._session._call > 0)
        holder.execute("select from perdure.worker for update")  # it can neither report nor resume
        await echo.enqueue(1)
        await eventually(lambda: hangs(conn))
        worker._reports.append(report(1, 1, "completed"))
        hang_up(conn)
        await eventually(lambda: worker._session._wire is None)
        await eventually(lambda: hangs(conn))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not worker._control._thread.is_alive()
    await eventually(
        lambda: (
            not conn.execute(
                "select from pg_stat_activity where application_name like 'perdure %'"
                " and datname = current_database()"
            ).rowcount
            > 0
        )
    )
