"""Looking at executions and waiting for them; here psql plays the worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from perdure import App, Finalize, Spawn, errors
from perdure.records import LoopResult

Psql = Callable[[str], Any]


@pytest.fixture
def psql(conn: psycopg.Connection[Any]) -> Psql:
    """A worker by hand: claims one execution and ends it with the given outcome."""
    row = conn.execute("select perdure.register_worker('psql')").fetchone()
    assert row
    worker = row[0]

    def play(outcome: str) -> Any:
        return conn.execute(
            "select f.result from perdure.claim_ready(%s) as c, lateral perdure.finish(%s,"
            " jsonb_build_array(jsonb_build_object('id', c.id, 'token', c.token) || %s)) as f",
            [worker, worker, outcome],
        ).fetchone()

    return play


async def test_a_result_is_the_output_typed(app: App, psql: Psql) -> None:
    @app.task
    def numbers() -> set[int]:
        return set()

    handle = await numbers.enqueue()
    assert await handle.status() == "ready"
    psql('{"outcome": "completed", "output": [1, 2]}')
    assert await handle.status() == "completed"
    assert await handle.result() == {1, 2}
    assert (await handle.wait()).output == [1, 2]
    assert (await app.handle(handle.id).result()) == [1, 2]
    assert (await app.handle(handle.id, numbers).result()) == {1, 2}
    assert repr(handle) == f"<execution {handle.id}>"


@pytest.mark.parametrize(
    ("outcome", "kind", "message"),
    [
        (
            '{"outcome": "failed", "error": {"type": "x", "message": "why", "retryable": false}}',
            errors.ExecutionFailed,
            "ended failed: why",
        ),
        ('{"outcome": "timed_out"}', errors.ExecutionTimedOut, "ended timed_out"),
        ('{"outcome": "cancelled"}', errors.ExecutionCancelled, "ended cancelled"),
    ],
)
async def test_another_end_is_an_error_that_says_why(
    app: App, psql: Psql, outcome: str, kind: type, message: str
) -> None:
    handle = await app.enqueue("x")
    psql(outcome)
    with pytest.raises(kind, match=message) as caught:
        await handle.result()
    assert caught.value.outcome.id == handle.id  # type: ignore[attr-defined]


async def test_waiting_ends_when_the_time_is_up(app: App) -> None:
    handle = await app.enqueue("x")
    with pytest.raises(errors.WaitTimedOut, match=r"had not ended after 0\.05 s"):
        await handle.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        await handle.wait(0)


async def test_waiting_sees_the_end(app: App, psql: Psql) -> None:
    handle = await app.enqueue("x")
    waiting = asyncio.create_task(handle.result(timeout=10))
    others = [asyncio.create_task(app.handle(handle.id).wait(10)) for _ in range(5)]
    await asyncio.to_thread(psql, '{"outcome": "completed", "output": 5}')
    assert await waiting == 5
    assert {o.output for o in await asyncio.gather(*others)} == {5}


def test_waiting_may_block(app: App, psql: Psql) -> None:
    handle = app.sync.enqueue("x")
    end = threading.Timer(0.05, psql, ['{"outcome": "completed", "output": 5}'])
    end.start()
    assert handle.result(timeout=10) == 5
    end.join()


async def test_cancel_ends_it_at_once(app: App) -> None:
    handle = await app.enqueue("x")
    assert await handle.cancel("no longer wanted") == "cancelled"
    assert await handle.cancel() == "finished"
    outcome = await handle.wait()
    assert outcome.status == "cancelled"
    assert outcome.error is not None
    assert outcome.error.type == "cancelled"
    assert "no longer wanted" in outcome.error.message


async def test_a_tree_can_be_looked_at(app: App, psql: Psql) -> None:
    @app.task
    def child(n: int) -> int:
        return n

    @app.task
    def merge(finalize: Finalize) -> int:
        return 0

    @app.task
    def parent() -> Spawn[str]:
        raise NotImplementedError

    root = await parent.enqueue()
    psql(
        '{"outcome": "spawned", "output": "own", "children": [{"task": "child", "input": {"n": 1}},'
        ' {"task": "child", "input": {"n": 2}}], "finalize": {"task": "merge"}}'
    )
    assert (await root.get()).output == "own"
    assert await root.status() == "waiting_for_children"
    psql('{"outcome": "completed", "output": 1}')
    assert await app.tree_progress(root.id) == {
        "completed": 1,
        "ready": 1,
        "waiting_for_children": 1,
    }
    psql('{"outcome": "failed", "error": {"type": "x", "message": "m", "retryable": false}}')
    first, second = await app.children(root.id)
    assert (first.position, first.output, first.is_completed) == (0, 1, True)
    assert (second.status, second.error and second.error.message) == ("failed", "m")
    assert [c.id for c in await app.children(root.id, after=0)] == [second.id]
    assert len(await app.children(root.id, limit=1)) == 1
    nodes = await app.tree(root.id)
    assert [(n.depth, n.task, n.is_finalize) for n in nodes] == [
        (0, "parent", False),
        (1, "child", False),
        (1, "child", False),
        (1, "merge", True),
    ]
    assert len(await app.tree(root.id, limit=2)) == 2
    assert {e.id for e in await app.executions(parent_id=root.id, task="child")} == {
        first.id,
        second.id,
    }
    assert [e.id for e in await app.executions(roots_only=True)] == [root.id]
    assert [e.id for e in await app.executions(status="failed")] == [second.id]
    assert [e.id for e in await app.executions(before=second.id, limit=1)] == [first.id]
    assert await app.executions(queue="elsewhere") == []
    psql('{"outcome": "completed", "output": 3}')
    assert await root.result() == 3
    assert await app.fsck() == []


async def test_attempts_and_a_retry_by_hand(app: App, psql: Psql) -> None:
    handle = await app.enqueue("x", max_attempts=2, retry_delay=0)
    psql('{"outcome": "failed", "error": {"type": "x", "message": "first"}}')
    psql('{"outcome": "failed", "error": {"type": "x", "message": "second"}}')
    assert (await handle.wait()).status == "failed"
    with pytest.raises(errors.NotFinished):
        await app.retry((await app.enqueue("y", delay=60)).id)
    assert await app.retry(handle.id) == handle.id
    assert await handle.status() == "ready"
    messages = [a.error.message for a in await app.attempts(handle.id) if a.error]
    assert messages[0] == "first"
    psql('{"outcome": "completed", "output": 1}')
    assert await handle.result() == 1


async def test_a_sleeping_execution_is_woken_once(app: App) -> None:
    @app.sleeping(timeout=60)
    def approval(order: str) -> bool:
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        approval("direct calls run the function")
    handle = await app.enqueue(approval.call("o-1"), key="o-1")
    assert await handle.status() == "sleeping"
    woken = await app.wake(approval, "o-1", True)
    assert (woken.id, woken.status, woken.output, woken.is_woken) == (
        handle.id,
        "completed",
        True,
        True,
    )
    again = await app.wake("approval", "o-1", False)
    assert (again.output, again.is_woken) == (True, False)
    assert await handle.result() is True
    refused = await app.enqueue(approval.call("o-2"), key="o-2")
    await app.wake(approval, "o-2", error="not today")
    with pytest.raises(errors.ExecutionFailed, match="not today"):
        await refused.result()
    other = await app.enqueue(approval.call("o-3"), key="o-3")
    await app.wake("approval", "o-3", error={"type": "denied", "message": "no"})
    outcome = await other.wait()
    assert outcome.error is not None
    assert outcome.error.type == "denied"


async def test_sweep_reports_what_it_did(app: App) -> None:
    await app.enqueue("x", delay=0.001)
    reports = [await app.sweep(), app.sync.sweep(limit=10)]
    assert not any(report.more for report in reports)
    assert sum(report.promoted for report in reports) <= 1


def test_the_output_of_a_loop_is_a_record(app: App, psql: Psql) -> None:
    handle = app.sync.enqueue("x")
    psql('{"outcome": "completed", "output": {"done": true, "output": 5}}')

    @app.loop(max_iterations=5)
    def poll() -> None: ...

    assert app.sync.handle(handle.id, poll).result() == LoopResult(True, 5)
