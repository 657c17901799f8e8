"""An idle worker sleeps, and wakes at once: by a notification, or when something is due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import takewhile
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fix_app import eventually, hang_up
from fix_engine import Engine
from perdure import App, Worker, _client_async, _client_sync
from perdure._direct import Direct, Event
from perdure.testing import working

Conn = psycopg.Connection[Any]

_AGES = 60.0  # a poll this rare cannot help
_SOON = 5.0


@pytest.fixture
def echo(app: App) -> Any:
    @app.task
    async def echo(value: Any, /) -> Any:
        return value

    return echo


async def is_idle(worker: Worker) -> None:
    """Returns when the worker has gone to sleep: it exchanges no more."""
    await eventually(lambda: worker._control.is_hearing)
    calls = -1
    while calls != worker._session._call:
        calls = worker._session._call
        await asyncio.sleep(0.1)


async def test_an_enqueue_wakes_an_idle_worker(app: App, echo: Any) -> None:
    async with working(app, poll=_AGES) as worker:
        for n in range(20):
            await is_idle(worker) if n % 5 == 0 else None
            assert await (await echo.enqueue(n)).result(_SOON) == n


async def in_a_crowd(workers: list[Worker], conn: Conn, others: int) -> None:
    """Returns when all of these workers know that there are so many others like them."""
    for n in range(others):
        conn.execute("select perdure.register_worker(%s)", [f"other {n}"])
    everybody = others + len(workers)
    await eventually(lambda: all(one._control.peers == everybody for one in workers))
    for worker in workers:
        await is_idle(worker)


@asynccontextmanager
async def a_fleet(app: App, size: int, **options: Any) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(working(app, poll=_AGES, ttl=1, **options))
            for _ in range(size)
        ]
        yield workers


async def test_of_many_idle_workers_few_answer_an_enqueue_and_it_is_found(
    app: App, echo: Any, conn: Conn
) -> None:
    size, times = 6, 15
    async with a_fleet(app, size) as workers:
        await in_a_crowd(workers, conn, 40)
        before = sum(worker._session._call for worker in workers)
        for n in range(times):
            assert await (await echo.enqueue(n)).result(_SOON) == n
        asked = sum(worker._session._call for worker in workers) - before
    assert asked < times * size / 2  # all of them would ask `size` times, and report once


async def test_as_many_idle_workers_answer_as_are_needed(app: App, echo: Any, conn: Conn) -> None:
    def answers(worker: Worker, items: int | None) -> int:
        event = Event("ready", items=items)
        return sum(worker._goes_first(event) for _ in range(1_000))

    async with a_fleet(app, 1, concurrency=2) as (worker,):
        assert answers(worker, 1) == 1_000  # alone
        await in_a_crowd([worker], conn, 49)
        assert answers(worker, None) == 1_000  # how many there are is not known
        assert answers(worker, 100) == 1_000  # two for each of fifty
        assert 20 < answers(worker, 1) < 200  # 3.5 of fifty
        assert 400 < answers(worker, 50) < 700  # 28 of fifty


@pytest.mark.parametrize("items", ["true", "-7", '"many"', "1e9", "null", "[]", "9" * 400])
async def test_whatever_others_say_of_items_nothing_is_lost(
    app: App, echo: Any, conn: Conn, items: str
) -> None:
    async with a_fleet(app, 1) as workers:
        await in_a_crowd(workers, conn, 10)
        waiting = await app.enqueue(echo.call(1), notify=False)
        payload = f'{{"event": "ready", "queues": null, "items": {items}}}'
        conn.execute("select pg_notify('perdure', %s)", [payload])
        assert await waiting.result(_SOON) == 1


def test_peers_are_those_who_can_do_all_that_a_worker_does(engine: Engine) -> None:
    def register(queues: list[str], tasks: list[str] | None) -> Any:
        return engine.value("register_worker", "worker", queues, tasks)

    def peers(worker: Any) -> int:
        return int(engine.value("count_peers", worker))

    one = register(["mail"], ["send", "bounce"])
    assert peers(one) == 1
    register(["mail"], ["send"])
    register(["other"], None)
    assert peers(one) == 1
    register(["mail", "other"], ["bounce", "more", "send"])
    all_tasks = register(["mail"], None)
    assert (peers(one), peers(all_tasks)) == (3, 1)
    engine.run("update perdure.worker set lost_at = now() where tasks is null")
    assert peers(one) == 2
    engine.value("register_worker", "behind a pooler", ["mail"], mode="lease")
    assert peers(one) == 2
    for _ in range(70):
        register(["mail"], ["send", "bounce"])
    assert peers(one) == 64
    engine.value("shard_queue", "mail", 4, rebalance=False)
    engine.rows("acquire_shards", one, "mail", [1])
    assert peers(one) == 1, "who else could do it"


def test_enqueues_wake_no_candidate(db: str, conn: Conn) -> None:
    candidate = Direct(db, "candidate", ttl=5, ears="perdure_leadership")
    try:
        candidate.open()
        candidate.wait(0)
        conn.execute("select perdure.enqueue('task')")
        conn.execute("select perdure.request_resign('{mail}', 'sweep')")
        heard = candidate.wait(_SOON)
        assert [(told.event, told.channels) for told in heard] == [("resign_please", ["mail"])]
    finally:
        candidate.close()


async def test_g17_of_a_hundred_wake_ups_none_is_lost_while_others_come_and_go(
    app: App, echo: Any, db: str, conn: Conn
) -> None:
    """Others begin and cease to listen, and the worker itself does, with a new connection."""
    is_over = asyncio.Event()

    async def come_and_go(number: int) -> int:
        times = 0
        while not is_over.is_set():
            async with await psycopg.AsyncConnection.connect(db, autocommit=True) as other:
                await other.execute("listen perdure")
                await other.execute(f"listen another_{number}".encode())
                await asyncio.sleep(0.01)
                await other.execute("unlisten *" if times % 2 else "select 1")
            times += 1
        return times

    async with working(app, poll=_AGES) as worker:
        others = [asyncio.create_task(come_and_go(number)) for number in range(9)]
        await is_idle(worker)
        for n in range(100):
            if n % 10 == 9:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'perdure control' and datname = current_database()"
                )
            assert await (await echo.enqueue(n)).result(_SOON) == n
        is_over.set()
        assert min(await asyncio.gather(*others)) > 0


async def test_an_enqueue_in_a_transaction_wakes_at_its_commit(
    app: App, echo: Any, db: str
) -> None:
    async with working(app, poll=_AGES) as worker:
        async with await psycopg.AsyncConnection.connect(db) as conn:
            handle = await app.enqueue(echo.call(1), conn=conn)
            await app.enqueue(echo.call(2), conn=conn)
            await is_idle(worker)
            await conn.commit()
        assert await app.handle(handle.id).result(_SOON) == 1


async def test_what_is_due_later_starts_in_time(app: App, echo: Any) -> None:
    async with working(app, poll=_AGES) as worker:
        await is_idle(worker)
        later = await app.enqueue(echo.call("later"), delay=1.0)
        sooner = await app.enqueue(echo.call("sooner"), delay=0.3)
        assert await sooner.result(_SOON) == "sooner"
        assert await later.status() == "ready"
        assert await later.result(_SOON) == "later"


async def test_what_another_queues_worker_puts_in_line_wakes_its_own(app: App, echo: Any) -> None:
    async with (
        working(app, queues=["one"], poll=_AGES, sweeper=False) as one,
        working(app, queues=["two"], poll=_AGES, sweeper=False) as two,
    ):
        await is_idle(one)
        await is_idle(two)
        first = await app.enqueue(echo.call(1), queue="one", delay=0.5)
        second = await app.enqueue(echo.call(2), queue="two", delay=1.0)  # of which nobody is told
        assert await first.result(_SOON) == 1
        assert await second.result(_SOON) == 2


async def test_names_are_heard_in_the_encoding_of_the_connection(db: str) -> None:
    app = App(make_conninfo(db, client_encoding="latin1"))

    @app.task
    async def echo(value: Any, /) -> Any:
        return value

    async with working(app, queues=["größe"], poll=_AGES) as worker:
        await is_idle(worker)
        assert await (await app.enqueue(echo.call(1), queue="größe")).result(_SOON) == 1
        assert worker._control.is_hearing
    await app.close()


async def test_a_lost_notification_is_made_up_for_by_the_poll(
    app: App, echo: Any, conn: Conn
) -> None:
    async with working(app, poll=0.5) as worker:
        await is_idle(worker)
        conn.execute("select perdure.enqueue('echo', '1', notify => false)")
        await eventually(
            lambda: conn.execute("select count(*) from perdure.finished").fetchone() == (1,),
            within=_SOON,
        )


async def test_notify_ready_makes_up_for_enqueues_without_notification(
    app: App, echo: Any, conn: Conn
) -> None:
    async with working(app, poll=_AGES) as worker:
        await is_idle(worker)
        conn.execute("select perdure.enqueue('echo', '1', notify => false)")
        conn.execute("select perdure.notify_ready('{default}')")
        await eventually(
            lambda: conn.execute("select count(*) from perdure.finished").fetchone() == (1,),
            within=_SOON,
        )


async def test_who_could_not_listen_looks_as_soon_as_it_can(
    app: App, echo: Any, conn: Conn
) -> None:
    async with working(app, poll=_AGES) as worker:
        await is_idle(worker)
        for n in range(10):
            hang_up(conn, "perdure control")
            assert await (await echo.enqueue(n)).result(_SOON) == n


async def test_children_wake_other_workers(app: App, db: str) -> None:
    from perdure import spawn

    both = asyncio.Barrier(4)

    @app.task
    async def meet() -> bool:
        await both.wait()
        return True

    @app.task
    async def gather() -> Any:
        return spawn([meet] * 4)

    # each has two slots: the four can only meet when the other worker is woken too
    async with working(app, poll=_AGES, concurrency=2) as one:
        async with working(app, poll=_AGES, concurrency=2) as two:
            await is_idle(one)
            await is_idle(two)
            handle = await gather.enqueue()
            assert (await handle.wait(_SOON)).is_completed


async def test_a_cancel_reaches_the_body_at_once(app: App) -> None:
    stopped = asyncio.Event()
    begun = asyncio.Event()

    @app.task
    async def hold() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with working(app, poll=_AGES):
        handle = await hold.enqueue()
        await begun.wait()
        asked_at = time.monotonic()
        await handle.cancel()
        await asyncio.wait_for(stopped.wait(), 5)
        assert time.monotonic() - asked_at < 1


def notifications(ears: Conn) -> list[str]:
    ears.execute("select 1")
    return [heard.payload for heard in ears.notifies(timeout=0.05)]


@pytest.mark.parametrize(
    ("statement", "amount"),
    [
        ("select perdure.enqueue('t')", 1),
        ("select perdure.enqueue('t') from generate_series(1, 10)", 1),
        ("select perdure.enqueue('t', notify => false)", 0),
        ("select perdure.enqueue('t', delay => '1 hour')", 1),
        ("select perdure.enqueue('t', delay => '3 hours')", 0),
        ("select perdure.enqueue('t', sleeping => true, key => 'k')", 0),
        ("select perdure.enqueue('t', key => 'held')", 0),
        (
            "select count(*) from perdure.enqueue_many((select jsonb_agg(jsonb_build_object("
            "'task', 't', 'queue', n::text)) from generate_series(1, 1000) as n))",
            1,
        ),
        (
            "select count(*) from perdure.enqueue_many((select jsonb_agg(jsonb_build_object("
            "'task', 't', 'queue', repeat(n::text, 60))) from generate_series(1, 1000) as n))",
            1,
        ),
        ("select count(*) from perdure.enqueue_many('[{}]')", 0),
    ],
)
def test_one_notification_a_call_at_most_and_none_that_cannot_matter(
    conn: Conn, connect: Callable[..., Conn], statement: str, amount: int
) -> None:
    conn.execute("select perdure.enqueue('t', delay => '2 hours')")
    conn.execute("select perdure.enqueue('t', key => 'held')")
    ears = connect()
    ears.execute("listen perdure")
    conn.execute(statement.encode())
    assert len(notifications(ears)) == amount


@pytest.mark.parametrize("channels", [1, 50])
async def test_an_idle_worker_says_little_and_writes_nothing(
    app: App, echo: Any, conn: Conn, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    said = []
    for module in (_client_async, _client_sync):  # all that is sent goes through one or the other
        real = module.send

        def send(connection: Any, call: Any, real: Any = real) -> Any:
            said.append(call.statement)
            return real(connection, call)

        monkeypatch.setattr(module, "send", send)
    queues = ["default", *(f"queue {n}" for n in range(1, channels))]
    seconds = 4.0
    async with working(app, queues=queues) as worker:
        sweeper = worker._sweeper
        await eventually(lambda: len(sweeper.led()) == channels)
        await is_idle(worker)
        before, written = len(said), next_transaction(conn)
        await asyncio.sleep(seconds)
        rate = (len(said) - before) / seconds
        assert next_transaction(conn) == written, "no transaction id was used"
    assert 0 < rate <= (10 if channels == 1 else 20), said[before:]


def next_transaction(conn: Conn) -> int:
    row = conn.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
    assert row
    return int(row[0])


def test_whether_notifications_come_through_is_asked_once_until_a_connection_is_lost(
    db: str,
) -> None:
    first, second = (Direct(db, "ears", ttl=5) for _ in range(2))
    with psycopg.connect(db, autocommit=True) as ears:
        ears.execute("listen perdure")

        def probes() -> int:
            ears.execute("select pg_notify('perdure', 'end')")
            heard = (told.payload for told in ears.notifies(timeout=_SOON))
            return sum("probe" in payload for payload in takewhile("end".__ne__, heard))

        try:
            first.open()
            second.open()
            assert (first.is_pooled, second.is_pooled) == (False, False)
            assert probes() == 1
            first.open()
            assert probes() == 1
        finally:
            first.close()
            second.close()
