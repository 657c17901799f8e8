"""How one attempt runs, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fix_app import eventually
from perdure import (
    Again,
    App,
    Cancelled,
    Fail,
    Retry,
    TimedOut,
    again,
    by_name,
    current,
    done,
    errors,
)
from perdure.records import Outcome
from perdure.testing import working


@dataclass
class Order:
    id: int
    at: datetime


async def outcome(app: App, what: Any, **options: Any) -> Outcome:
    """How it ended, run by a worker of its own."""
    async with working(app):
        handle = await app.enqueue(what, **options)
        return await handle.wait(15)


async def test_async_and_sync_bodies_get_typed_inputs_and_give_typed_outputs(app: App) -> None:
    order = Order(7, datetime(2026, 1, 2, tzinfo=UTC))
    threads = []

    @app.task
    async def later(order: Order, days: int) -> Order:
        assert isinstance(order, Order)
        threads.append(threading.current_thread())
        return Order(order.id, order.at + timedelta(days=days))

    @app.task
    def now(order: Order) -> datetime:
        threads.append(threading.current_thread())
        return order.at

    async with working(app):
        first = await later.enqueue(order, days=1)
        second = await now.enqueue(order)
        assert await first.result(10) == Order(7, datetime(2026, 1, 3, tzinfo=UTC))
        assert await second.result(10) == order.at
    assert threads[0] is threading.main_thread() or threads[1] is threading.main_thread()
    assert len(set(threads)) == 2
    assert now(order) == order.at  # the function stays callable


async def test_an_ordinary_exception_is_retried_and_the_next_attempt_knows_it(app: App) -> None:
    seen: list[Any] = []

    @app.task(max_attempts=3, retry_delay=0.01)
    async def flaky() -> int:
        context = current()
        seen.append((context.attempt, context.previous_error and context.previous_error.message))
        if context.attempt < 3:
            raise ValueError(f"no {context.attempt}")
        return context.attempt

    assert (await outcome(app, flaky)).output == 3
    assert seen == [(1, None), (2, "no 1"), (3, "no 2")]


async def test_a_failure_is_stored_with_its_type_and_traceback(app: App) -> None:
    @app.task
    def broken() -> None:
        raise KeyError("nothing\0here" + "x" * 5000)

    ended = await outcome(app, broken)
    assert ended.status == "failed"
    error = ended.error
    assert error is not None
    assert (error.type, error.retryable) == ("KeyError", True)
    assert error.message.startswith("'nothing\\x00here")
    assert len(error.message) == 4000
    assert error.traceback is not None
    assert "in broken" in error.traceback


async def test_a_long_traceback_keeps_its_end(app: App) -> None:
    @app.task
    def deep() -> None:
        try:
            raise ValueError("a" * 10_000)
        except ValueError as error:
            raise RuntimeError("\0the \ud800 end") from error

    ended = await outcome(app, deep)
    assert ended.error is not None
    assert ended.error.message == "\\0the \\ud800 end"
    told = ended.error.traceback
    assert told is not None
    assert told.startswith("...\naaa")
    assert told.endswith("RuntimeError: \\0the \\ud800 end\n")
    assert "_worker.py" not in told  # the frames of the engine are of no use
    assert len(told) < 8200


class CardDeclined(Fail):
    """A failure with a name."""


@pytest.mark.parametrize(
    ("raised", "status", "kind", "message", "retryable", "runs"),
    [
        (Fail("stop"), "failed", "Fail", "stop", False, 1),
        (Fail(), "failed", "Fail", "the body failed", False, 1),
        (Fail("x", retryable=True), "failed", "Fail", "x", True, 2),
        (Fail("gone", error_type="not_found"), "failed", "not_found", "gone", False, 1),
        (CardDeclined("no"), "failed", "CardDeclined", "no", False, 1),
        (Retry("busy", delay=0.01), "failed", "Retry", "busy", True, 2),
        (
            Retry(delay=timedelta()),
            "failed",
            "Retry",
            "the body asked for another attempt",
            True,
            2,
        ),
        (Cancelled(), "cancelled", "cancelled", "the execution was cancelled", False, 1),
        (Cancelled("enough"), "cancelled", "cancelled", "enough", False, 1),
        (TimedOut("slow"), "timed_out", "timed_out", "slow", True, 2),
        (SystemExit(3), "failed", "SystemExit", "3", True, 2),
        (StopIteration("s"), "failed", "RuntimeError", None, True, 2),
        (TimeoutError(), "failed", "TimeoutError", "TimeoutError", True, 2),
    ],
)
@pytest.mark.parametrize("style", ["async", "sync"])
async def test_what_a_body_raises_decides_how_it_ends(
    app: App,
    raised: BaseException,
    status: str,
    kind: str,
    message: str | None,
    retryable: bool,
    runs: int,
    style: str,
) -> None:
    count = []

    def fail() -> None:
        count.append(1)
        raise raised

    async def fail_async() -> None:
        fail()

    body = fail_async if style == "async" else fail
    app.task(name="fail", max_attempts=2, retry_delay=0)(body)
    ended = await outcome(app, "fail")
    assert ended.error is not None
    assert (ended.status, ended.error.type, len(count)) == (status, kind, runs)
    assert message is None or ended.error.message == message
    assert ended.error.retryable == retryable or ended.status == "timed_out"


async def test_a_cancellation_from_within_is_a_failure(app: App) -> None:
    @app.task
    async def confused() -> None:
        raise asyncio.CancelledError

    ended = await outcome(app, confused)
    assert ended.error is not None
    assert ended.error.message == "the body was cancelled from within"


async def test_an_async_body_is_interrupted_at_its_timeout(app: App) -> None:
    seen = []

    @app.task(timeout=0.1)
    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            seen.append(current().is_cancelled)

    started = time.monotonic()
    ended = await outcome(app, slow)
    assert time.monotonic() - started < 5
    assert (ended.status, ended.error and ended.error.message) == (
        "timed_out",
        "the attempt timed out",
    )
    assert seen == [True]


async def test_a_sync_body_is_asked_at_its_timeout_and_what_it_says_later_is_dropped(
    app: App,
) -> None:
    asked = threading.Event()
    may_end = threading.Event()

    @app.task(timeout=0.1)
    def slow() -> str:
        current().cancelled.wait()
        asked.set()
        may_end.wait()
        return "too late"

    @app.task
    def next_one() -> str:
        return "ran"

    async with working(app, concurrency=1):
        handle = await slow.enqueue()
        waiting = await next_one.enqueue()
        assert (await handle.wait(10)).status == "timed_out"
        assert asked.wait(5)
        with pytest.raises(errors.WaitTimedOut):  # the thread still has the only slot
            await waiting.wait(0.5)
        may_end.set()
        assert await waiting.result(10) == "ran"
    assert (await handle.get()).status == "timed_out"


async def test_a_timeout_is_retried_while_attempts_are_left(app: App) -> None:
    @app.task(timeout=0.1, max_attempts=2, retry_delay=0)
    async def slow_once() -> str:
        if current().attempt == 1:
            await asyncio.sleep(30)
        return "second"

    assert (await outcome(app, slow_once)).output == "second"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "not_serialisable"),
        (float("nan"), "not_serialisable"),
        ("\0", "not_serialisable"),
        (2**64, "not_serialisable"),
        ("a" * (2 << 20), "payload_too_large"),
        (done(1), "invalid_return"),
        (again(delay=-5), "invalid_outcome"),
    ],
)
async def test_an_output_that_cannot_be_stored_fails_alone(app: App, value: Any, kind: str) -> None:
    @app.task(max_attempts=3, retry_delay=0)
    async def odd() -> Any:
        return value

    @app.task
    async def fine(n: int) -> int:
        return n

    async with working(app):
        calls = [fine.call(1), odd.call(), fine.call(2)]
        ids = [e.id for e in await app.enqueue_many(calls) if e.id is not None]
        ended = [await app.wait(id_, 10) for id_ in ids]
    assert [e.output for e in ended] == [1, None, 2]
    assert ended[1].error is not None
    assert (ended[1].status, ended[1].error.type) == ("failed", kind)


async def test_an_output_that_does_not_fit_its_annotation_fails(app: App) -> None:
    @app.task
    async def wrong() -> int:
        return "text"  # type: ignore[return-value]

    ended = await outcome(app, wrong)
    assert ended.error is not None
    assert "output of task wrong: expected int, found str 'text'" in ended.error.message


async def test_an_input_that_does_not_fit_ends_the_execution_before_the_body(app: App) -> None:
    ran = []

    @app.task(max_attempts=3)
    async def picky(n: int) -> None:
        ran.append(n)

    ended = await outcome(app, by_name("picky", {"n": "one"}))
    assert (ended.status, ended.error and ended.error.type) == ("failed", "invalid_input")
    assert ended.error is not None
    assert ended.error.message == "Invalid input to task picky: n: expected int, found str 'one'"
    assert not ran


async def test_a_validator_may_reject_or_transform(app: App) -> None:
    def check(value: Any) -> Any:
        if value == "bad":
            raise ValueError("bad input")
        return f"{value}_v"

    async def check_async(value: Any) -> Any:
        return check(value)

    @app.task(validate=check)
    def sync(value: str, /) -> str:
        return value + "!"

    @app.task(validate=check_async)
    async def awaiting(value: str, /) -> str:
        return value + "!"

    async with working(app):
        for task in (sync, awaiting):
            assert await (await task.enqueue("in")).result(10) == "in_v!"
            refused = await (await task.enqueue("bad")).wait(10)
            assert refused.error is not None
            assert refused.error.message == f"Invalid input to task {task.name}: bad input"


async def test_the_context_knows_the_execution(app: App) -> None:
    seen: dict[str, Any] = {}

    @app.task(tags=["t"])
    async def look() -> None:
        context = current()
        names = [name for name in dir(context) if not name.startswith("_")]
        seen.update({name: getattr(context, name) for name in names})

    deadline = datetime.now(UTC) + timedelta(hours=1)
    async with working(app, queues=["default", "q"]):
        handle = await app.enqueue(
            look, queue="q", key="k", headers={"h": 1}, deadline=deadline, priority=2
        )
        await handle.result(10)
    assert (seen["execution_id"], seen["root_id"], seen["parent_id"]) == (
        handle.id,
        handle.id,
        None,
    )
    assert (seen["task"], seen["attempt"], seen["iteration"], seen["crashes"]) == ("look", 1, 0, 0)
    assert (seen["key"], seen["queue"], seen["headers"], seen["tags"]) == (
        "k",
        "q",
        {"h": 1},
        ["t"],
    )
    assert seen["deadline_at"] == deadline
    assert (seen["position"], seen["is_finalize"], seen["previous_error"]) == (None, False, None)
    assert (seen["is_cancelled"], seen["is_shutting_down"]) == (False, False)


def test_there_is_no_context_outside_of_a_body() -> None:
    with pytest.raises(LookupError, match="outside of a task's body"):
        current()


@pytest.mark.parametrize("style", ["async", "sync"])
async def test_a_running_body_is_cancelled_within_a_second(app: App, style: str) -> None:
    begun = threading.Event()
    ended = threading.Event()

    @app.task(name="async")
    async def long() -> None:
        begun.set()
        with contextlib.ExitStack() as stack:
            stack.callback(ended.set)
            await asyncio.sleep(60)

    @app.task(name="sync")
    def long_sync() -> None:
        begun.set()
        current().cancelled.wait(60)
        ended.set()
        current().raise_if_cancelled()

    async with working(app, concurrency=2):
        handle = await app.enqueue(style)
        await eventually(begun.is_set)
        assert await handle.cancel("stop it") == "cancelled"
        cancelled_at = time.monotonic()
        await eventually(ended.is_set)
        assert time.monotonic() - cancelled_at < 1
    assert (await handle.get()).status == "cancelled"


async def test_a_deadline_interrupts_a_running_body(app: App) -> None:
    ended = asyncio.Event()

    @app.task
    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with working(app):
        handle = await app.enqueue(long, deadline=0.3)
        outcome = await handle.wait(10)
        await asyncio.wait_for(ended.wait(), 5)
    assert (outcome.status, outcome.error and outcome.error.type) == (
        "timed_out",
        "deadline_exceeded",
    )


async def test_a_body_that_ignores_its_cancellation_changes_nothing(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()
    resisted = asyncio.Event()

    @app.task
    async def stubborn() -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            resisted.set()
        return "done all the same"

    async with working(app):
        handle = await stubborn.enqueue()
        await begun.wait()
        await handle.cancel()
        await resisted.wait()
    assert (await handle.get()).output is None
    assert not [r for r in caplog.records if r.levelno > logging.WARNING]


async def test_again_runs_the_same_execution_with_a_new_input(app: App) -> None:
    seen = []

    @app.task(max_attempts=2, retry_delay=0)
    async def count(n: int) -> int | Again:
        context = current()
        seen.append((n, context.iteration, context.attempt))
        if context.attempt == 1:
            raise ValueError("every first attempt fails")
        return n if n == 3 else again(input={"n": n + 1}, delay=0.01)

    async with working(app):
        handle = await count.enqueue(1)
        assert await handle.result(10) == 3
    assert seen == [(n, n - 1, a) for n in (1, 2, 3) for a in (1, 2)]


async def test_again_with_an_input_that_does_not_fit_fails(app: App) -> None:
    @app.task
    async def count(n: int) -> Again:
        return again(input={"n": "two"})

    ended = await outcome(app, count.call(1))
    assert ended.error is not None
    assert ended.error.type == "invalid_input"


async def test_a_loop_ends_when_it_is_done_or_used_up(app: App) -> None:
    delays = []

    def every(coming: int) -> float:
        delays.append(coming)
        return 0.01

    @app.loop(max_iterations=4, every=every)
    async def poll(until: int) -> Any:
        return done("ready") if current().iteration == until else None

    @app.loop(max_iterations=2)
    def sync_poll(until: int) -> Any:
        return done("ready") if current().iteration == until else again(delay=0.001)

    @app.loop(max_iterations=5)
    def broken() -> Any:
        raise Fail("no use")

    @app.loop(max_iterations=5)
    def wrong() -> Any:
        return 5

    async with working(app):
        result = await (await poll.enqueue(2)).result(10)
        assert (result.done, result.output) == (True, "ready")
        assert delays == [1, 2]
        result = await (await poll.enqueue(9)).result(10)
        assert (result.done, result.output) == (False, None)
        assert (await (await sync_poll.enqueue(1)).result(10)).done
        assert not (await (await sync_poll.enqueue(2)).result(10)).done
        failed = await (await broken.enqueue()).wait(10)
        assert (failed.status, failed.error and failed.error.message) == ("failed", "no use")
        invalid = await (await wrong.enqueue()).wait(10)
        assert invalid.error is not None
        assert invalid.error.type == "invalid_return"


async def test_a_body_may_enqueue_through_the_app(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    async def awaiting() -> int:
        return (await leaf.enqueue(1)).id

    @app.task
    def blocking() -> int:
        return app.sync.enqueue(leaf.call(2)).id

    async with working(app):
        for task, n in ((awaiting, 1), (blocking, 2)):
            child = await (await task.enqueue()).result(10)
            assert await app.handle(child, leaf).result(10) == n


@pytest.mark.parametrize("queue", ["default", "mail"])
async def test_the_plainest_execution_knows_its_queue(app: App, queue: str) -> None:
    @app.task(queue=queue)
    async def where() -> str:
        return current().queue

    async with working(app, queues=[queue]):
        assert await (await where.enqueue()).result(10) == queue
