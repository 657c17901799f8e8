"""What a worker claims, and how much of it."""

from __future__ import annotations

import asyncio
from typing import Any

from fix_app import eventually
from perdure import App, Worker, by_name
from perdure.testing import working


class Gauge:
    """How many bodies run at once, and how many ever did."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    def __enter__(self) -> None:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


async def test_no_more_bodies_run_than_the_worker_may(app: App) -> None:
    gauge = Gauge()

    @app.task
    async def nap() -> None:
        with gauge:
            await asyncio.sleep(0.01)

    async with working(app, concurrency=3, batch=2):
        ids = [e.id for e in await app.enqueue_many([nap] * 30)]
        for id_ in ids:
            assert id_ is not None
            await app.wait(id_, 10)
    assert (gauge.most, gauge.total) == (3, 30)


async def test_what_is_claimed_ahead_waits_for_a_slot(app: App) -> None:
    gauge = Gauge()
    gate = asyncio.Event()

    @app.task
    async def hold() -> None:
        with gauge:
            await gate.wait()

    async with working(app, concurrency=2, prefetch=3):
        await app.enqueue_many([hold] * 10)
        await eventually(lambda: running(app, 5))
        await eventually(lambda: gauge.now == 2)
        gate.set()
        await eventually(lambda: gauge.total == 10)
    assert (gauge.most, gauge.total) == (2, 10)


async def running(app: App, count: int) -> bool:
    return len(await app.executions(status="running")) == count and (
        count > 0 or not await app.executions(status="ready")
    )


async def test_what_waits_too_long_for_a_slot_is_handed_back(app: App) -> None:
    gate = asyncio.Event()
    timeouts: list[Any] = []

    @app.task
    async def hold() -> None:
        await gate.wait()

    @app.task(timeout=0.4)
    async def hasty() -> str:
        timeouts.append(1)
        return "done"

    async with working(app, concurrency=1, prefetch=1):
        first = await hold.enqueue()
        await eventually(lambda: running(app, 1))
        second = await hasty.enqueue()
        await eventually(lambda: running(app, 2))
        await asyncio.sleep(0.25)  # more than half of its timeout
        gate.set()
        await first.result(10)
        assert await second.result(10) == "done"
    assert (await second.get()).attempt == 1


async def test_a_worker_claims_only_the_tasks_it_knows(app: App, db: str) -> None:
    @app.task
    async def known(n: int) -> int:
        return n

    await app.enqueue_many([by_name("unknown", n) for n in range(300)])
    async with working(app):
        assert await (await known.enqueue(1)).result(10) == 1
        assert await app.executions(status="running") == []
    stranger = await app.executions(task="unknown", limit=1)
    assert stranger[0].status == "ready"

    late = App(db)

    @late.task
    async def unknown(n: int, /) -> int:
        return n

    async with working(late):
        assert await late.handle(stranger[0].id).result(10) == 299
        await eventually(lambda: running(late, 0))
    await late.close()


async def test_a_worker_claims_only_from_its_queues_in_their_order(app: App) -> None:
    order: list[str] = []

    @app.task
    async def note(what: str, /) -> None:
        order.append(what)

    for queue in ("low", "high", "other"):
        await app.enqueue(note.call(queue), queue=queue)
    async with working(app, queues=["high", "low"], concurrency=1):
        await eventually(lambda: len(order) == 2)
    assert order == ["high", "low"]


async def test_what_is_due_soon_starts_on_time(app: App) -> None:
    @app.task
    async def quick() -> None: ...

    async with working(app):
        handle = await app.enqueue(quick, delay=0.3)
        await handle.result(10)
    ended = await handle.get()
    assert ended.started_at is not None
    assert ended.start_at is not None
    assert 0 <= (ended.started_at - ended.start_at).total_seconds() < 0.2


async def test_an_exchange_carries_whole_batches(app: App) -> None:
    @app.task
    async def noop() -> None: ...

    await app.enqueue_many([noop] * 1000)
    async with working(app, concurrency=200, batch=100) as worker:
        await eventually(lambda: running(app, 0))
        assert calls(worker) < 60


def calls(worker: Worker) -> int:
    return worker._session._call


async def test_reports_larger_than_one_call_go_in_several(app: App) -> None:
    @app.task
    async def large() -> str:
        await asyncio.sleep(0)
        return "a" * 1_000_000

    async with working(app):
        ids = [e.id for e in await app.enqueue_many([large] * 20)]
        for id_ in ids:
            assert id_ is not None
            assert len((await app.wait(id_, 20)).output) == 1_000_000


async def test_what_is_urgent_goes_before_a_long_line(app: App) -> None:
    order = []

    @app.task
    async def note(n: int, /) -> None:
        order.append(n)
        await asyncio.sleep(0.001)

    await app.enqueue_many([note.call(n) for n in range(20_000)])
    async with working(app, batch=10, concurrency=20):
        await eventually(lambda: len(order) > 100)
        urgent = await app.enqueue(note.call(-1).options(priority=-1))
        await urgent.result(20)
        assert len(order) < 20_000
