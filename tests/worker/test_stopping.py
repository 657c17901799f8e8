"""How a worker stops: it drains, hands back, and loses nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fix_app import PATIENCE, WorkerProcess, eventually
from perdure import App, Worker, by_name, current
from perdure._session import Session
from perdure.testing import working

Start = Callable[..., WorkerProcess]


async def test_running_bodies_end_and_what_was_not_begun_goes_back(app: App) -> None:
    begun = asyncio.Event()
    seen = []

    @app.task
    async def last() -> str:
        begun.set()
        await current().shutting_down.wait_async()
        seen.append(current().is_shutting_down)
        return "ended in peace"

    async with working(app, concurrency=1, prefetch=2) as worker:
        ids = [e.id or 0 for e in await app.enqueue_many([last] * 4)]
        await begun.wait()
        await eventually(lambda: is_running(app, 3))
        worker.stop()
        worker.stop()
    assert await app.handle(ids[0]).result() == "ended in peace"
    back = [await app.get(id_) for id_ in ids[1:]]
    assert [(e.status, e.attempt, e.crashes) for e in back] == [("ready", 0, 0)] * 3
    assert seen == [True]


async def is_running(app: App, count: int) -> bool:
    return len(await app.executions(status="running")) == count


async def test_bodies_that_outlast_the_drain_are_interrupted_and_handed_back(app: App) -> None:
    begun = threading.Semaphore(0)
    swallowed = []

    @app.task
    async def long() -> None:
        begun.release()
        await asyncio.sleep(60)

    @app.task
    def long_sync() -> None:
        begun.release()
        assert current().cancelled.wait(60)
        current().raise_if_cancelled()

    @app.task
    async def tidy() -> str:
        begun.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.append(1)
        return "finished after all"

    @app.task
    async def upset() -> None:
        begun.release()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None

    async with working(app, drain_timeout=0.1) as worker:
        for task in (long, long_sync, tidy, upset):
            await app.enqueue(task)
        for _ in range(4):
            await asyncio.to_thread(begun.acquire)
        worker.stop()
    found = {e.task: (e.status, e.attempt) for e in await app.executions()}
    assert found == {
        "long": ("ready", 0),
        "long_sync": ("ready", 0),
        "upset": ("ready", 0),
        "tidy": ("completed", 1),
    }
    assert swallowed


async def test_a_body_that_never_ends_does_not_keep_the_worker(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perdure import _worker

    monkeypatch.setattr(_worker, "_GRACE", 0.2)
    begun = threading.Event()
    release = threading.Event()

    @app.task
    def deaf() -> None:
        begun.set()
        release.wait(60)

    async with working(app) as worker:
        handle = await deaf.enqueue()
        await asyncio.to_thread(begun.wait)
        worker.cancel()
    found = await handle.get()
    assert (found.status, found.attempt, found.crashes) == ("ready", 0, 0)
    release.set()


async def test_cancelling_the_run_itself_hands_everything_back(app: App) -> None:
    begun = asyncio.Event()

    @app.task
    async def long() -> None:
        begun.set()
        await asyncio.sleep(60)

    worker = Worker(app, install_signals=False)
    running = asyncio.create_task(worker.run())
    handle = await long.enqueue()
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    found = await handle.get()
    assert (found.status, found.attempt, found.crashes) == ("ready", 0, 0)


async def test_what_arrives_after_the_stop_goes_back(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    app.task(name="x")(lambda: ran.append(1))
    handle = await app.enqueue("x")
    real = Session.receive

    async def tardy(self: Session, sent: Any) -> Any:
        reply = await real(self, sent)
        if reply.claimed:
            worker.stop()
        return reply

    monkeypatch.setattr(Session, "receive", tardy)
    worker = Worker(app, install_signals=False)
    await worker.run()
    found = await handle.get()
    assert (found.status, found.attempt, ran) == ("ready", 0, [])


async def test_an_idle_worker_stops_at_once(app: App) -> None:
    app.task(name="x")(lambda: None)
    async with working(app) as worker:
        await eventually(lambda: worker._session._call > 0)
        started = time.monotonic()
    assert time.monotonic() - started < 2


def test_the_first_signal_lets_bodies_end(app: App, start_worker: Start) -> None:
    process = start_worker()
    handle = app.sync.enqueue("wait_for_stop")
    process.expect("waiting")
    process.terminate()
    assert process.join() == 0
    assert handle.result() is True


def test_the_second_signal_hands_bodies_back(app: App, start_worker: Start) -> None:
    process = start_worker("concurrency=2", "prefetch=1")
    calls = [by_name("nap", 60), by_name("doze", 60), by_name("nap", 60)]
    ids = [e.id or 0 for e in app.sync.enqueue_many(calls)]
    process.expect("napping") and process.expect("dozing")
    process.terminate()
    deadline = time.monotonic() + PATIENCE
    while app.sync.status(ids[2]) != "ready" and time.monotonic() < deadline:
        time.sleep(0.01)  # the first signal hands back what was not begun
    process.terminate()
    assert process.join() == 0
    found = [app.sync.get(id_) for id_ in ids]
    assert [(e.status, e.attempt, e.crashes) for e in found] == [("ready", 0, 0)] * 3


def test_the_drain_is_bounded(app: App, start_worker: Start) -> None:
    process = start_worker("drain_timeout=0.2")
    handle = app.sync.enqueue("nap", 60)
    process.expect("napping")
    process.terminate()
    assert process.join() == 0
    assert handle.status() == "ready"


def test_a_third_signal_kills(app: App, start_worker: Start) -> None:
    process = start_worker()
    app.sync.enqueue("sleep_through", 60)
    process.expect("sleeping")
    for _ in range(3):
        process.terminate()
        time.sleep(0.3)  # so that they are three signals
    assert process.join() != 0


def test_a_process_ends_although_a_thread_does_not(app: App, start_worker: Start) -> None:
    process = start_worker("drain_timeout=0.1")
    handle = app.sync.enqueue("sleep_through", 60)
    process.expect("sleeping")
    process.terminate()
    assert process.join() == 0
    assert handle.status() == "ready"
