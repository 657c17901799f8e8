"""Parents, finalize, sequences, sleepers, at any depth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import App, Fail, Finalize, Spawn, _calls, by_name, current, errors, spawn
from perdure._finalize import Inputs
from perdure.testing import working


def define(app: App) -> None:
    @app.task
    async def double(n: int, /) -> int:
        return n * 2

    @app.task
    def fail(message: str = "no") -> None:
        raise Fail(message)

    @app.task
    def total(finalize: Finalize) -> int:
        assert current().is_finalize
        return sum(child.output for child in finalize.children if child.is_completed)

    @app.task
    async def statuses(finalize: Finalize) -> list[Any]:
        found = [[c.task, c.status, c.output, c.error and c.error.message] for c in finalize.all()]
        return [finalize.output, found]


async def test_children_run_and_finalize_decides(app: App) -> None:
    define(app)
    tasks = app.tasks
    where = []

    @app.task
    async def look() -> None:
        context = current()
        where.append((context.parent_id, context.root_id, context.position))

    @app.task
    async def parent(n: int) -> Spawn[str]:
        children = [tasks["double"].call(i) for i in range(n)]
        return spawn([*children, tasks["fail"], look], output="own", finalize=tasks["statuses"])

    async with working(app):
        handle = await parent.enqueue(2)
        output = await handle.result(10)
    assert output == [
        "own",
        [
            ["double", "completed", 0, None],
            ["double", "completed", 2, None],
            ["fail", "failed", None, "no"],
            ["look", "completed", None, None],
        ],
    ]
    assert where == [(handle.id, handle.id, 3)]


async def test_a_parent_without_finalize_completes_with_its_own_output(app: App) -> None:
    define(app)

    @app.task
    def parent() -> Spawn[int]:
        return spawn([app.tasks["fail"].call(message="bad"), app.tasks["double"].call(4)], output=7)

    async with working(app):
        handle = await parent.enqueue()
        assert await handle.result(10) == 7
    children = await app.children(handle.id)
    assert [(c.status, c.output) for c in children] == [("failed", None), ("completed", 8)]


async def test_a_parent_without_children_goes_straight_on(app: App) -> None:
    define(app)

    @app.task
    def childless(finalize: bool) -> Spawn[int]:
        return spawn([], output=3, finalize=app.tasks["statuses"] if finalize else None)

    async with working(app):
        assert await (await childless.enqueue(False)).result(10) == 3
        assert await (await childless.enqueue(True)).result(10) == [3, []]


async def test_finalize_may_fail_and_may_be_a_parent_itself(app: App) -> None:
    define(app)
    double, total = app.tasks["double"], app.tasks["total"]

    @app.task
    def strict(finalize: Finalize) -> None:
        raise Fail("not all is well")

    @app.task
    async def more(finalize: Finalize) -> Spawn[None]:
        numbers = [child.output async for child in finalize.children]
        return spawn([double.call(n) for n in numbers], finalize=total.options(max_attempts=2))

    @app.task
    def parent(finalize: str) -> Spawn[None]:
        return spawn([double.call(1), double.call(2)], finalize=app.tasks[finalize])

    async with working(app):
        handle = await parent.enqueue("more")
        assert await handle.result(10) == 12
        with pytest.raises(errors.FinalizeFailed, match="not all is well"):
            await (await parent.enqueue("strict")).result(10)
    assert {n.task for n in await app.tree(handle.id)} == {"parent", "double", "more", "total"}


async def test_fail_fast_cancels_the_siblings(app: App) -> None:
    define(app)
    cancelled = asyncio.Event()

    @app.task
    async def patient() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    @app.task
    def parent() -> Spawn[None]:
        return spawn([patient, app.tasks["fail"].call()], fail_fast=True)

    async with working(app):
        ended = await (await parent.enqueue()).wait(10)
        assert (ended.status, ended.error and ended.error.type) == ("failed", "child_failed")
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_one_bad_child_fails_the_parent_and_creates_none(app: App) -> None:
    define(app)
    double = app.tasks["double"]
    other = App()

    @other.task
    def theirs() -> None: ...

    bad: dict[str, Any] = {
        "options": double.call(1).options(max_attempts=0),
        "input": by_name("double", "a" * (2 << 20)),
        "other": theirs,
    }

    @app.task(max_attempts=3)
    def parent(kind: str) -> Spawn[None]:
        return spawn([double.call(1), bad[kind]])

    async with working(app):
        for kind in bad:
            handle = await parent.enqueue(kind)
            ended = await handle.wait(10)
            assert ended.error is not None
            assert (ended.status, ended.error.type) == ("failed", "invalid_child"), kind
            assert await app.children(handle.id) == []


async def test_children_take_options_of_their_own(app: App) -> None:
    define(app)

    @app.task
    def parent() -> Spawn[None]:
        double = app.tasks["double"]
        return spawn(
            [
                double.call(1).options(delay=0.05, timeout=5, max_attempts=4, tags=["a"]),
                double.call(2).options(queue="other", key="k", headers={"h": 1}),
            ]
        )

    async with working(app, queues=["default", "other"]):
        handle = await parent.enqueue()
        await handle.result(10)
    one, two = [await app.get(c.id) for c in await app.children(handle.id)]
    assert (one.max_attempts, one.tags) == (4, ["a"])
    assert (two.queue, two.key, two.headers) == ("other", "k", {"h": 1})


async def test_a_sequence_feeds_each_step_the_previous_output(app: App) -> None:
    define(app)
    double = app.tasks["double"]

    @app.task
    def parent_step(n: int, /) -> Spawn[None]:
        return spawn([double.call(n)], finalize=app.tasks["total"])

    inner = app.sequence("inner", [double, double])
    chain = app.sequence(
        "chain",
        [double, inner, parent_step, double.options(delay=0.01)],
        validate=lambda value: value + 1,
    )
    async with working(app):
        handle = await chain.enqueue(0)
        assert await handle.result(10) == 1 * 2 * 4 * 2 * 2
        assert (await (await app.enqueue("chain", 1)).result(10)) == 2 * 2 * 4 * 2 * 2
    steps = await app.children(handle.id)
    assert [(s.position, s.task) for s in steps] == [
        (0, "double"),
        (1, "inner"),
        (2, "parent_step"),
        (3, "double"),
    ]
    assert (await handle.get()).timeout is not None


async def test_a_failing_step_ends_the_sequence(app: App) -> None:
    define(app)
    chain = app.sequence("chain", [app.tasks["double"], app.tasks["fail"], app.tasks["double"]])
    async with working(app):
        handle = await chain.enqueue(1)
        with pytest.raises(errors.FinalizeFailed):
            await handle.result(10)
    assert len(await app.children(handle.id)) == 2


async def test_a_sleeping_child_and_a_sleeping_step_are_woken(app: App) -> None:
    define(app)

    @app.sleeping(timeout=60)
    def approval(key: str, /) -> int:
        raise NotImplementedError

    @app.task
    def name_key(n: int, /) -> str:
        return f"order-{n}"

    @app.task
    def parent() -> Spawn[None]:
        return spawn([approval.call("child"), approval.options(key="other")])

    chain = app.sequence("chain", [name_key, approval, app.tasks["double"]])
    async with working(app):
        waiting = await chain.enqueue(5)
        family = await parent.enqueue()
        for key in ("order-5", "child", "other"):
            while True:
                try:
                    assert (await app.wake(approval, key, 21)).is_woken
                    break
                except errors.KeyNotFound:
                    await asyncio.sleep(0.02)
        assert await waiting.result(10) == 42
        await family.result(10)
    assert [c.output for c in await app.children(family.id)] == [21, 21]


async def test_a_sleeper_that_nobody_wakes_times_out(app: App) -> None:
    define(app)

    @app.sleeping(timeout=0.2)
    def approval(key: str, /) -> int:
        raise NotImplementedError

    async with working(app):
        handle = await approval.enqueue("k")
        assert (await handle.wait(10)).status == "timed_out"


async def test_cancel_ends_the_whole_tree(app: App) -> None:
    begun = asyncio.Semaphore(0)
    ended = asyncio.Semaphore(0)

    @app.task
    async def leaf() -> None:
        begun.release()
        try:
            await asyncio.sleep(60)
        finally:
            ended.release()

    @app.task
    def branch() -> Spawn[None]:
        return spawn([leaf, leaf])

    @app.task
    def root() -> Spawn[None]:
        return spawn([branch, branch])

    async with working(app):
        handle = await root.enqueue()
        for _ in range(4):
            await asyncio.wait_for(begun.acquire(), 10)
        assert await handle.cancel() == "cancelled"
        for _ in range(4):
            await asyncio.wait_for(ended.acquire(), 1)
    assert await app.tree_progress(handle.id) == {"cancelled": 7}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["for", "async for", "all"])
async def test_finalize_reads_any_number_of_children_in_pages(app: App, style: str) -> None:
    @app.task
    async def leaf(n: int, /) -> int:
        return n

    @app.task
    def blocking(finalize: Finalize) -> list[int]:
        return [child.output for child in finalize.children]

    @app.task
    async def awaiting(finalize: Finalize) -> list[int]:
        return [child.output async for child in finalize.children]

    @app.task
    async def at_once(finalize: Finalize) -> list[int]:
        return [child.output for child in finalize.all()]

    ends: dict[str, Any] = {"for": blocking, "async for": awaiting, "all": at_once}

    @app.task
    async def parent() -> Spawn[None]:
        return spawn([leaf.call(n) for n in range(2500)], finalize=ends[style])

    async with working(app):
        handle = await parent.enqueue()
        assert await handle.result(60) == list(range(2500))


async def test_finalizes_that_begin_together_read_together(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    define(app)
    read = _calls.finalize_inputs
    asked: list[int] = []

    def noted(parents: Any, *rest: Any) -> Any:
        asked.append(len(parents))
        return read(parents, *rest)

    monkeypatch.setattr(_calls, "finalize_inputs", noted)

    @app.task
    async def parent(children: int, /) -> Spawn[None]:
        return spawn([by_name("double", n) for n in range(children)], finalize=app.tasks["total"])

    counts = [3] * 40 + [99, 100, 101, 0]
    async with working(app, concurrency=400, batch=400):
        ended = await app.enqueue_many([parent.call(count) for count in counts])
        sums = [(await app.wait(each.id or 0, 20)).output for each in ended]
    assert sums == [count * (count - 1) for count in counts]
    assert sum(asked) == len(counts) + 2, "those of a hundred children and more once again"
    assert max(asked) <= 16
    assert len(asked) < len(counts) / 2


async def test_the_inputs_of_a_finalize_whose_parent_is_gone(app: App) -> None:
    with pytest.raises(errors.ExecutionNotFound):
        await Inputs(app).read({"parent": 4711, "generation": 1})


@pytest.mark.slow
async def test_two_workers_share_a_thousand_children(app: App, db: str) -> None:
    def build(app: App, ran: list[int]) -> None:
        @app.task
        async def leaf(n: int, /) -> int:
            ran.append(n)
            await asyncio.sleep(0)
            return n

        @app.task
        def total(finalize: Finalize) -> int:
            return sum(child.output for child in finalize.children)

        @app.task
        def parent() -> Spawn[None]:
            return spawn([leaf.call(n) for n in range(1000)], finalize=total)

    second = App(db)
    ran: tuple[list[int], list[int]] = [], []
    build(app, ran[0])
    build(second, ran[1])
    async with working(app, batch=50), working(second, batch=50):
        handle = await app.enqueue("parent")
        assert await handle.result(60) == sum(range(1000))
    assert sorted(ran[0] + ran[1]) == list(range(1000))
    assert ran[0]
    assert ran[1]
    await second.close()
