"""Exchanges that are under way together: the server need not wait for the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from fix_app import eventually, hang_up
from fix_machines import Pooler
from perdure import App, Worker
from perdure.testing import working

Conn = psycopg.Connection[Any]

COUNT = 400


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Worker], list[int]]:
    """How many exchanges were under way after each that a worker sent."""

    def watch(worker: Worker) -> list[int]:
        seen: list[int] = []
        send = worker._session.send

        def sent(*given: Any) -> Any:
            seen.append(len(worker._flights))
            return send(*given)

        monkeypatch.setattr(worker._session, "send", sent)
        return seen

    return watch


async def drain(app: App, watch: Callable[[Worker], list[int]], **options: Any) -> list[int]:
    async with working(app, **options) as worker:
        seen = watch(worker)
        calls = [app.call("echo", n) for n in range(COUNT)]
        ids = [enqueued.id or 0 for enqueued in await app.enqueue_many(calls)]
        ended = [await app.wait(id_, 20) for id_ in ids]
    assert [outcome.output for outcome in ended] == list(range(COUNT))
    return seen


def define_echo(app: App) -> None:
    @app.task(name="echo")
    async def echo(n: int, /) -> int:
        return n


async def test_the_next_full_batch_is_sent_before_the_last_one_was_answered(
    app: App, watched: Callable[[Worker], list[int]]
) -> None:
    define_echo(app)
    seen = await drain(app, watched, batch=5, concurrency=10)
    assert set(seen) == {1, 2}
    assert seen.count(2) > COUNT / 5 / 2
    # no more than each batch needs: one that is sent early is a full one
    assert len(seen) < COUNT / 5 + 20


async def test_without_room_for_a_full_batch_the_answer_is_waited_for(
    app: App, watched: Callable[[Worker], list[int]]
) -> None:
    define_echo(app)
    assert set(await drain(app, watched, batch=10, concurrency=9)) == {1}


async def test_behind_a_pooler_one_is_under_way(
    pooler: Pooler, db: str, watched: Callable[[Worker], list[int]]
) -> None:
    app = App(pooler.dsn(db))
    define_echo(app)
    try:
        assert set(await drain(app, watched, batch=5, concurrency=10)) == {1}
    finally:
        await app.close()


async def test_never_more_is_claimed_than_may_run(app: App) -> None:
    together, most = 0, 0
    gate = asyncio.Event()

    @app.task
    async def hold() -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await gate.wait()
        together -= 1

    async with working(app, batch=3, concurrency=7) as worker:
        ids = [enqueued.id or 0 for enqueued in await app.enqueue_many([hold] * 40)]
        await eventually(lambda: together == 7)
        assert len(worker._leases) == 7
        gate.set()
        for id_ in ids:
            assert (await app.wait(id_, 20)).is_completed
    assert most == 7


async def test_what_was_under_way_when_the_connection_broke_is_told_again(
    app: App, conn: Conn
) -> None:
    @app.task
    async def echo(n: int, /) -> int:
        return n

    count = 10_000
    async with working(app, batch=5, concurrency=10) as worker:
        await app.enqueue_many([echo.call(n) for n in range(count)])
        for least in range(1_000, 6_000, 1_000):
            await eventually(partial(_has_finished, conn, least))
            await eventually(lambda: worker._session.is_open)
            assert hang_up(conn) == 1
        await eventually(partial(_has_finished, conn, count))
    rows = conn.execute(
        "select distinct status, attempts, crashes, (select count(*) from perdure.finished)"
        " from perdure.finished"
    ).fetchall()
    assert rows == [("completed", 1, 0, count)]
    assert await app.fsck() == []


def _has_finished(conn: Conn, count: int) -> bool:
    (row,) = conn.execute("select count(*) >= %s from perdure.finished", [count]).fetchall()
    return bool(row[0])
