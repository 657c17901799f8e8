"""What the storage conformance suite of gpahal/durable-execution 0.32 plays through an executor
(A1 to A10), and the core tests of that engine that no other test here has; see docs/mapping.md."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from fix_app import eventually
from perdure import (
    Again,
    App,
    Done,
    Fail,
    Finalize,
    Spawn,
    Task,
    current,
    done,
    errors,
    spawn,
)
from perdure.records import Execution
from perdure.testing import working

Conn = psycopg.Connection[Any]


def assert_sound_dates(execution: Execution) -> None:
    assert execution.started_at is not None
    assert execution.finished_at is not None
    assert execution.created_at <= execution.started_at <= execution.finished_at


async def test_a01_a_tree_of_a_parent_a_sequence_and_finalizes(app: App) -> None:
    @app.task
    async def leaf(name: str, /) -> str:
        return f"leaf {name}"

    @app.task
    async def join(finalize: Finalize) -> str:
        return f"{finalize.output}({', '.join(child.output for child in finalize.children)})"

    @app.task
    async def family() -> Spawn[str]:
        return spawn([leaf.call(n) for n in "abc"], output="family", finalize=join)

    @app.task
    async def more(text: str, /) -> str:
        return f"{text}+"

    chain = app.sequence("chain", [leaf, more, more])

    @app.task
    async def root() -> Spawn[str]:
        return spawn([family, chain.call("d")], output="root", finalize=join)

    async with working(app):
        handle = await root.enqueue()
        result = "root(family(leaf a, leaf b, leaf c), leaf d++)"
        assert await handle.result(20) == result
    executions = {node.id: await app.get(node.id) for node in await app.tree(handle.id)}
    assert Counter(e.task for e in executions.values()) == {
        "root": 1,
        "family": 1,
        "chain": 1,
        "leaf": 4,
        "more": 2,
        "join": 2,
    }
    outputs = [e.output for e in executions.values() if e.task in ("chain", "leaf", "more")]
    assert sorted(outputs) == [
        "leaf a",
        "leaf b",
        "leaf c",
        "leaf d",
        "leaf d+",
        "leaf d++",
        "leaf d++",
    ]
    for execution in executions.values():
        assert (execution.status, execution.root_id) == ("completed", handle.id)
        assert_sound_dates(execution)


async def test_a02_two_hundred_and_fifty_tasks_at_once(app: App) -> None:
    def define(number: int) -> Task[[], int, Any]:
        @app.task(name=f"task_{number}")
        async def body() -> int:
            await asyncio.sleep(number % 10 / 1000)
            return number

        return body

    tasks = [define(number) for number in range(250)]
    async with working(app):
        handles = [await task.enqueue() for task in tasks]
        assert [await handle.result(20) for handle in handles] == list(range(250))
    for number, handle in enumerate(handles):
        execution = await handle.get()
        assert (execution.task, execution.output) == (f"task_{number}", number)
        assert_sound_dates(execution)


async def test_a03_two_failures_and_a_success(app: App) -> None:
    @app.task(max_attempts=4, retry_delay=0)
    async def third_time() -> str:
        if current().attempt < 3:
            raise RuntimeError("not yet")
        return "Success"

    async with working(app):
        handle = await third_time.enqueue()
        assert await handle.result(20) == "Success"
    assert (await handle.get()).attempt == 3
    assert [a.status for a in await app.attempts(handle.id)] == ["failed", "failed"]


async def test_a04_a_failure_without_another_attempt(app: App) -> None:
    @app.task
    async def failing() -> None:
        raise RuntimeError("Failed")

    async with working(app):
        outcome = await (await failing.enqueue()).wait(20)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.message == "Failed"


@pytest.mark.parametrize(
    "child_fails",
    [
        pytest.param(True, id="a05_because_a_child_failed"),
        pytest.param(False, id="a06_although_the_child_completed"),
    ],
)
async def test_a05_a06_a_finalize_that_fails(app: App, child_fails: bool) -> None:
    @app.task
    async def child() -> None:
        if child_fails:
            raise RuntimeError("child")

    @app.task
    async def finalize(record: Finalize) -> None:
        if not child_fails or not all(child.is_completed for child in record.children):
            raise RuntimeError("Failed")

    @app.task
    async def parent() -> Spawn[None]:
        return spawn([child], finalize=finalize)

    async with working(app):
        outcome = await (await parent.enqueue()).wait(20)
    assert outcome.status == "finalize_failed"
    assert outcome.error is not None
    assert outcome.error.message == "Failed"


async def test_a07_five_hundred_children_in_order(app: App) -> None:
    @app.task
    async def child(number: int, /) -> int:
        return number

    @app.task
    async def parent() -> Spawn[str]:
        return spawn([child.call(number) for number in range(500)], output="own")

    async with working(app):
        handle = await parent.enqueue()
        assert await handle.result(20) == "own"
    children = await app.children(handle.id)
    expected = [(number, "completed", number) for number in range(500)]
    assert [(c.position, c.status, c.output) for c in children] == expected
    assert not [node for node in await app.tree(handle.id) if node.is_finalize]


async def test_a08_a_loop_until_a_value_appears(app: App) -> None:
    appears_at = time.monotonic() + 1

    @app.loop(max_iterations=20, every=0.1)
    async def poll() -> Done[int] | None:
        return done(10) if time.monotonic() > appears_at else None

    async with working(app):
        handle = await app.enqueue(poll.call(), delay=0.1)
        result = await handle.result(20)
    assert (result.done, result.output) == (True, 10)
    assert 4 <= (await handle.get()).iteration <= 9
    assert (await handle.get()).attempt == 1


async def test_a09_a_sleeping_child_is_woken(app: App) -> None:
    @app.sleeping(timeout=60)
    def approval(order: int) -> str:
        raise NotImplementedError

    @app.task
    async def finalize(record: Finalize) -> str:
        (child,) = record.children
        return str(child.output)

    @app.task
    async def parent() -> Spawn[None]:
        return spawn([approval.call(7).options(key="order 7")], finalize=finalize)

    async def waits() -> bool:
        return await handle.status() == "waiting_for_children"

    async with working(app):
        handle = await parent.enqueue()
        await eventually(waits)
        (child,) = await app.children(handle.id)
        assert child.status == "sleeping"
        woken = await app.wake(approval, "order 7", "granted")
        assert (woken.id, woken.status, woken.output) == (child.id, "completed", "granted")
        assert await handle.result(20) == "granted"
    assert await app.children(child.id) == []


async def test_a10_a_parent_ends_once_and_owes_nothing(app: App, conn: Conn) -> None:
    runs: Counter[str] = Counter()

    @app.task
    async def child() -> str:
        runs["child"] += 1
        return "child"

    @app.task
    async def parent() -> Spawn[str]:
        runs["parent"] += 1
        return spawn([child], output="own")

    async with working(app):
        handle = await parent.enqueue()
        assert await handle.result(20) == "own"
        # finished, told, closed: in one transaction with the child's end
        assert conn.execute("select count(*) from perdure.closing").fetchone() == (0,)
        assert conn.execute("select count(*) from perdure.waiting").fetchone() == (0,)
    assert runs == {"parent": 1, "child": 1}
    (found,) = await app.children(handle.id)
    ended, child_ended = await handle.get(), await app.get(found.id)
    assert found.output == "child"
    assert ended.finished_at is not None
    assert child_ended.finished_at is not None
    assert ended.finished_at >= child_ended.finished_at


# The core tests


async def test_two_workers_never_run_the_same_execution(app: App, db: str) -> None:
    starts: Counter[int] = Counter()

    async def body() -> None:
        starts[current().execution_id] += 1
        await asyncio.sleep(0.002)

    async with App(db) as second:
        app.task(name="body")(body)
        second.task(name="body")(body)
        calls = [app.tasks["body"]] * 500
        async with working(app, batch=7), working(second, batch=7):
            ids = [e.id or 0 for e in await app.enqueue_many(calls)]
            for id_ in ids:
                assert (await app.wait(id_, 20)).status == "completed"
    assert starts == dict.fromkeys(ids, 1)


async def test_children_exist_once_although_the_spawning_exchange_was_cut_off(
    app: App, conn: Conn
) -> None:
    @app.task
    async def child(number: int, /) -> int:
        return number

    @app.task
    async def parent() -> Spawn[None]:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'perdure worker'"
        )
        return spawn([child.call(number) for number in range(3)])

    async with working(app):
        handle = await parent.enqueue()
        await handle.result(20)
    execution = await handle.get()
    assert [c.output for c in await app.children(handle.id)] == [0, 1, 2]
    assert len(await app.tree(handle.id)) == 4
    assert (execution.attempt, execution.crashes) == (1, 0)


@pytest.mark.parametrize("moment", ["before a worker saw it", "while it ran"])
async def test_cancel_once_and_again(app: App, moment: str) -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    @app.task(max_attempts=3, retry_delay=0)
    async def body() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    handle = await body.enqueue()
    if moment == "before a worker saw it":
        assert await handle.cancel() == "cancelled"
    async with working(app):
        if moment == "while it ran":
            await asyncio.wait_for(begun.wait(), 10)
            assert await handle.cancel("no longer wanted") == "cancelled"
            await asyncio.wait_for(ended.wait(), 1)
        assert await handle.cancel() == "finished"
        assert await handle.cancel() == "finished"
        with pytest.raises(errors.ExecutionCancelled):
            await handle.result(10)
        await asyncio.sleep(0.3)
    assert begun.is_set() == (moment == "while it ran")
    assert await app.attempts(handle.id) == []


async def test_a_sequence_of_one_step(app: App) -> None:
    @app.task
    async def double(number: int, /) -> int:
        return number * 2

    one = app.sequence("one", [double])
    async with working(app):
        assert await (await one.enqueue(21)).result(20) == 42


async def test_a_sequence_ends_with_its_failing_step_and_says_which(app: App) -> None:
    @app.task
    async def fine(value: Any, /) -> Any:
        return value

    @app.task
    async def broken(value: Any, /) -> None:
        raise Fail("out of paper")

    @app.task(timeout=0.1)
    async def slow(value: Any, /) -> None:
        await asyncio.sleep(60)

    @app.task
    async def blocked(value: Any, /) -> None:
        begun.set()
        await asyncio.sleep(60)

    begun = asyncio.Event()
    chains = [
        app.sequence(f"chain_{step.name}", [fine, step, fine]) for step in (broken, slow, blocked)
    ]
    async with working(app):
        failed, late, stopped = [await chain.enqueue(1) for chain in chains]
        await asyncio.wait_for(begun.wait(), 10)
        await app.cancel((await app.children(stopped.id))[1].id)
        outcomes = [await handle.wait(20) for handle in (failed, late, stopped)]
    assert [outcome.status for outcome in outcomes] == ["finalize_failed"] * 3
    texts = [outcome.error.message for outcome in outcomes if outcome.error is not None]
    assert texts[0] == "step 1 (broken) failed: out of paper"
    assert texts[1].startswith("step 1 (slow) timed_out: ")
    assert texts[2].startswith("step 1 (blocked) cancelled: ")
    for handle in (failed, late, stopped):
        assert len(await app.children(handle.id)) == 2


async def test_a_cancelled_sequence_goes_no_further(app: App) -> None:
    begun = asyncio.Event()

    @app.task
    async def blocked(value: Any, /) -> None:
        begun.set()
        await asyncio.sleep(60)

    chain = app.sequence("chain", [blocked, blocked])
    async with working(app):
        handle = await chain.enqueue(1)
        await asyncio.wait_for(begun.wait(), 10)
        assert await handle.cancel() == "cancelled"
        assert [c.status for c in await app.children(handle.id)] == ["cancelled"]
    assert await handle.status() == "cancelled"


async def test_a_loop_waits_between_its_iterations(app: App) -> None:
    @app.loop(max_iterations=4, every=0.1)
    async def by_number() -> Again | None:
        ran["number"].append(time.monotonic())
        return None

    @app.loop(max_iterations=3, every=lambda coming: coming * 0.1)
    async def by_function() -> Again | None:
        ran["function"].append(time.monotonic())
        return None

    ran: dict[str, list[float]] = {"number": [], "function": []}
    async with working(app):
        handles: list[Any] = [await by_number.enqueue(), await by_function.enqueue()]
        results = [await handle.result(20) for handle in handles]
    assert [result.done for result in results] == [False, False]
    pauses = {
        name: [later - at for at, later in itertools.pairwise(times)] for name, times in ran.items()
    }
    assert len(pauses["number"]) == 3
    assert len(pauses["function"]) == 2
    assert min(pauses["number"]) > 0.09
    assert pauses["function"][0] > 0.09
    assert pauses["function"][1] > 0.19


@pytest.mark.parametrize("ending", ["completed", "failed", "timed_out", "cancelled"])
async def test_a_sleeper_keeps_its_first_end(app: App, ending: str) -> None:
    @app.sleeping(timeout=0.1 if ending == "timed_out" else 60)
    def approval(key: str, /) -> str:
        raise NotImplementedError

    async with working_nothing(app):
        handle = await approval.enqueue("k")
        match ending:
            case "completed":
                assert (await app.wake(approval, "k", "yes")).is_woken
            case "failed":
                assert (await app.wake(approval, "k", error="no")).is_woken
            case "cancelled":
                assert await handle.cancel() == "cancelled"
        first = await handle.wait(20)
        again = await app.wake(approval, "k", "later")
    assert first.status == ending
    assert not again.is_woken
    assert (again.status, again.output, again.error) == (first.status, first.output, first.error)
    assert first.output == ("yes" if ending == "completed" else None)


def working_nothing(app: App) -> Any:
    """A worker, which sweeps too, for an app that has sleeping tasks only."""

    @app.task
    async def idle() -> None: ...

    return working(app)


async def test_a_delay_holds_for_the_first_attempt_only(app: App) -> None:
    starts: list[float] = []

    @app.task(max_attempts=3, retry_delay=0, retry_jitter=0)
    async def failing() -> None:
        starts.append(time.monotonic())
        raise RuntimeError

    async with working(app):
        enqueued_at = time.monotonic()
        await (await app.enqueue(failing.call(), delay=0.5)).wait(20)
    assert starts[0] - enqueued_at > 0.45
    assert len(starts) == 3
    assert starts[2] - starts[0] < 0.45


async def test_a_failure_goes_up_through_the_finalizes_of_three_generations(app: App) -> None:
    @app.task
    async def child() -> None:
        raise Fail("broken leg")

    @app.task
    async def demand(finalize: Finalize) -> None:
        for member in finalize.children:
            if member.error is not None:
                raise Fail(f"{member.task} {member.status}: {member.error.message}")

    @app.task
    async def parent() -> Spawn[None]:
        return spawn([child], finalize=demand)

    @app.task
    async def grandparent() -> Spawn[None]:
        return spawn([parent], finalize=demand)

    async with working(app):
        handle = await grandparent.enqueue()
        outcome = await handle.wait(20)
    assert outcome.status == "finalize_failed"
    assert outcome.error is not None
    assert outcome.error.message == "parent finalize_failed: child failed: broken leg"
    assert [(node.depth, node.task, node.status) for node in await app.tree(handle.id)] == [
        (0, "grandparent", "finalize_failed"),
        (1, "parent", "finalize_failed"),
        (2, "child", "failed"),
        (2, "demand", "failed"),
        (1, "demand", "failed"),
    ]
