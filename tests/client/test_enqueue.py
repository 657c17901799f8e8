"""Enqueueing: by task or by name, one or many, alone or in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from perdure import App, by_name
from perdure.errors import InvalidAttempts, KeyConflict


def define(app: App) -> Any:
    @app.task(
        queue="mail",
        priority=3,
        max_attempts=5,
        timeout=timedelta(seconds=30),
        retry_delay=2,
        tags=["post"],
    )
    async def send_email(to: str, subject: str = "hi") -> str:
        return to

    return send_email


async def test_a_task_is_enqueued_with_what_it_declares(app: App) -> None:
    send_email = define(app)
    handle = await send_email.enqueue(to="a@b.c")
    found = await handle.get()
    assert (found.task, found.queue, found.priority) == ("send_email", "mail", 3)
    assert (found.max_attempts, found.timeout, found.tags) == (5, timedelta(seconds=30), ["post"])
    assert found.input == {"to": "a@b.c"}
    assert await handle.status() == "ready"


async def test_options_of_the_call_go_before_those_of_the_task(app: App) -> None:
    call = define(app).call("a@b.c").options(queue="slow", headers={"trace": 1})
    handle = await app.enqueue(call, queue="fast", delay=60, max_attempts=2)
    found = await handle.get()
    assert (found.queue, found.max_attempts, found.tags) == ("fast", 2, ["post"])
    assert found.headers == {"trace": 1}
    assert found.start_at is not None
    assert found.start_at - found.created_at == timedelta(seconds=60)


async def test_moments_and_durations_take_every_sensible_form(app: App) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    handle = await app.enqueue("x", run_at=tomorrow, deadline=timedelta(days=2), timeout=0.5)
    found = await handle.get()
    assert found.start_at == tomorrow
    assert found.timeout == timedelta(seconds=0.5)
    assert found.deadline_at is not None
    assert abs(found.deadline_at - tomorrow - timedelta(days=1)) < timedelta(minutes=1)
    other = await app.enqueue("x", deadline=tomorrow, key="k", key_for=timedelta(hours=1))
    assert (await other.get()).deadline_at == tomorrow


async def test_a_name_is_enough(app: App) -> None:
    handle = await app.enqueue("elsewhere", {"any": ["json"]}, queue="far")
    found = await handle.get()
    assert (found.task, found.queue, found.input) == ("elsewhere", "far", {"any": ["json"]})


async def test_a_name_that_is_known_brings_what_its_task_declares(app: App) -> None:
    define(app)
    handle = await app.enqueue("send_email", {"to": "a@b.c"})
    assert (await handle.get()).queue == "mail"
    called = await app.enqueue(app.call("send_email", {"to": "a@b.c"}))
    assert (await called.get()).queue == "mail"


async def test_the_same_key_gives_the_same_execution(app: App) -> None:
    call = define(app).call("a@b.c")
    first = await app.enqueue(call, key="once")
    second = await app.enqueue(call, key="once")
    assert first.id == second.id
    assert (first.is_new, second.is_new) == (True, False)
    with pytest.raises(KeyConflict):
        await app.enqueue(define_other(app).call(1), key="once", key_scope="send_email")


def define_other(app: App) -> Any:
    @app.task
    def other(n: int) -> None: ...

    return other


async def test_many_are_accepted_or_refused_one_by_one(app: App) -> None:
    send_email = define(app)
    done = await app.enqueue_many(
        [
            send_email.call("a@b.c"),
            send_email.call("d@e.f").options(max_attempts=0),
            by_name("x", [1]),
            send_email.call("a@b.c").options(key="k"),
            send_email.call("a@b.c").options(key="k"),
        ],
        headers={"batch": 1},
    )
    assert [d.item for d in done] == [0, 1, 2, 3, 4]
    assert [d.is_new for d in done] == [True, False, True, True, False]
    assert isinstance(done[1].error, InvalidAttempts)
    assert done[1].id is None
    assert done[3].id == done[4].id
    assert (await app.get(done[2].id or 0)).headers == {"batch": 1}


async def test_many_more_than_one_call_carries_keep_their_numbers(app: App) -> None:
    done = await app.enqueue_many(by_name("x", n) for n in range(1_001))
    assert [d.item for d in done] == list(range(1_001))
    last = done[-1].id
    assert last is not None
    assert (await app.get(last)).input == 1_000


async def test_many_large_ones_are_split_by_bytes(app: App) -> None:
    done = await app.enqueue_many(by_name("x", "a" * 900_000) for _ in range(20))
    assert all(d.id is not None for d in done)
    assert len({d.id for d in done}) == 20


async def test_it_commits_with_the_callers_transaction(app: App, db: str) -> None:
    send_email = define(app)
    async with await psycopg.AsyncConnection.connect(db) as conn:
        await conn.execute("create table orders (id int)")
        await conn.execute("insert into orders values (1)")
        handle = await app.enqueue(send_email.call("a@b.c"), conn=conn)
        assert await app.executions() == []
        await conn.commit()
    assert [e.id for e in await app.executions()] == [handle.id]


async def test_it_rolls_back_with_the_callers_transaction(app: App, db: str) -> None:
    send_email = define(app)
    async with await psycopg.AsyncConnection.connect(db) as conn:
        await app.enqueue(send_email.call("a@b.c"), conn=conn)
        await app.enqueue_many([send_email.call("a@b.c")], conn=conn)
        await conn.rollback()
    assert await app.executions() == []


async def test_a_refused_item_leaves_the_callers_transaction_usable(app: App, db: str) -> None:
    send_email = define(app)
    async with await psycopg.AsyncConnection.connect(db) as conn:
        with pytest.raises(InvalidAttempts):
            await app.enqueue(send_email.call("a@b.c"), max_attempts=-1, conn=conn)
        await app.enqueue(send_email.call("d@e.f"), conn=conn)
    assert len(await app.executions()) == 1


def test_the_blocking_client_does_the_same(app: App, conn: psycopg.Connection[Any]) -> None:
    send_email = define(app)
    handle = app.sync.enqueue(send_email.call("a@b.c"), key="k")
    assert handle.status() == "ready"
    assert app.sync.enqueue("x", 1).get().input == 1
    with conn.transaction(force_rollback=True):
        inside = app.sync.enqueue(send_email.call("a@b.c"), conn=conn)
        app.sync.cancel(inside.id, conn=conn)
    assert app.sync.status(handle.id) == "ready"
    assert len(app.sync.executions()) == 2


def test_the_callers_connection_may_have_any_row_factory(app: App, db: str) -> None:
    from psycopg.rows import dict_row

    with psycopg.connect(db, row_factory=dict_row) as conn:
        handle = app.sync.enqueue("x", {"a": None}, conn=conn)
    assert handle.get().input == {"a": None}


@pytest.mark.parametrize("kind", ["async client", "sync client"])
async def test_a_connection_of_the_wrong_kind_is_refused(
    app: App, db: str, connect: Callable[..., Any], kind: str
) -> None:
    if kind == "async client":
        with pytest.raises(TypeError, match="needs a psycopg AsyncConnection"):
            await app.enqueue("x", conn=connect())
    else:
        async with await psycopg.AsyncConnection.connect(db) as conn:
            with pytest.raises(TypeError, match="needs a psycopg Connection"):
                app.sync.enqueue("x", conn=conn)  # type: ignore[call-overload]


async def test_a_workers_start_publishes_what_tasks_declare(app: App, db: str) -> None:
    define(app)
    assert await app.define_tasks() == 1
    assert await app.define_tasks() == 0
    with psycopg.connect(db) as conn:
        row = conn.execute("select perdure.enqueue('send_email', '{\"to\": \"a\"}')").fetchone()
        assert row
    assert (await app.get(row[0])).queue == "mail"


async def test_a_stream_of_calls_is_never_in_memory_as_a_whole(app: App) -> None:
    made = 0

    def calls() -> Iterator[Any]:
        nonlocal made
        for made in range(1, 2_101):
            yield by_name("x", made)

    stream = app.enqueue_stream(calls(), notify=False)
    first = await anext(stream)
    assert first.item == 0
    assert made <= 2_001, "two batches, and the call that did not fit in"
    rest = [enqueued async for enqueued in stream]
    assert [enqueued.item for enqueued in rest] == list(range(1, 2_100))
    assert all(enqueued.is_new for enqueued in rest)


async def test_a_stream_that_breaks_off_leaves_whole_batches(app: App) -> None:
    def calls() -> Iterator[Any]:
        yield from (by_name("x", n) for n in range(1_001))
        raise RuntimeError("no more")

    answered = 0

    async def take() -> None:
        nonlocal answered
        async for _ in app.enqueue_stream(calls()):
            answered += 1

    with pytest.raises(RuntimeError, match="no more"):
        await take()
    assert len(await app.executions(limit=2_000)) == answered == 1_000


def test_the_blocking_client_streams_too(app: App) -> None:
    calls = [by_name("x", n) for n in range(2_001)]
    with app.sync as client:
        answers = list(client.enqueue_stream(calls, notify=False))
        assert [answer.item for answer in answers] == list(range(2_001))
        assert len({answer.id for answer in answers}) == 2_001


@pytest.mark.parametrize("is_mine", [False, True])
def test_a_stream_that_is_left_has_nothing_under_way(app: App, db: str, is_mine: bool) -> None:
    calls = [by_name("x", n) for n in range(2_001)]
    with psycopg.connect(db) as conn, app.sync as client:
        for _ in client.enqueue_stream(calls, conn=conn if is_mine else None):
            break
        conn.rollback()
        row = conn.execute("select count(*) from perdure.execution").fetchone()
        assert row == (0 if is_mine else 1_000,)
