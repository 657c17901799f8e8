"""Rule 14: a key leads to one live execution, whoever comes at the same time."""

from __future__ import annotations

import pytest

from fix_engine import Engine
from fix_sessions import Sessions, done


def test_a_second_caller_waits_for_the_first_and_gets_its_id(
    engine: Engine, sessions: Sessions
) -> None:
    other = sessions.open()
    with engine.conn.transaction():
        id_ = engine.enqueue(key="k")
        second = other.later(other.enqueue, key="k")
        sessions.await_waiting(other, second)
    assert done(second) == id_
    assert engine.one("select count(*) from perdure.execution") == 1


def test_a_second_caller_gets_its_own_when_the_first_rolls_back(
    engine: Engine, sessions: Sessions
) -> None:
    other = sessions.open()
    with engine.conn.transaction(force_rollback=True):
        id_ = engine.enqueue(key="k")
        second = other.later(other.enqueue, key="k")
        sessions.await_waiting(other, second)
    assert done(second) > id_


def test_who_comes_while_the_holder_ends_gets_a_new_execution(
    engine: Engine, sessions: Sessions
) -> None:
    lease = engine.start(key="k")
    other = sessions.open()
    with engine.conn.transaction():
        engine.complete(lease)
        second = other.later(other.enqueue, key="k")
        sessions.await_waiting(other, second)
    assert done(second) > lease.id


def test_batches_that_name_the_same_keys_crosswise_do_not_deadlock(
    engine: Engine, sessions: Sessions
) -> None:
    parts = [sessions.open() for _ in range(3)]
    for turn in range(10):
        keys = [f"turn {turn} key {n:02}" for n in range(20)]
        orders = (keys, keys[::-1], keys[5:] + keys[:5])
        calls = [
            part.later(part.rows, "enqueue_many", [{"task": "t", "key": key} for key in order])
            for part, order in zip(parts, orders, strict=True)
        ]
        found = []
        for call, order in zip(calls, orders, strict=True):
            rows = done(call)
            found.append({key: row["id"] for key, row in zip(order, rows, strict=True)})
        assert found[0] == found[1] == found[2]


def test_equal_keys_in_one_batch_are_one_execution(engine: Engine) -> None:
    rows = engine.rows("enqueue_many", [{"task": "t", "key": "k"}] * 3)
    assert len({row["id"] for row in rows}) == 1
    assert [row["is_new"] for row in rows] == [True, False, False]


def test_a_key_that_a_redrive_takes_again_is_not_taken_away(
    engine: Engine, sessions: Sessions
) -> None:
    """Its time is over, so an enqueue would drop it, but a redrive came first."""
    lease = engine.start(key="k", key_for="1 ms")
    engine.complete(lease)
    engine.run("select pg_sleep(0.01)")
    other = sessions.open()
    with engine.conn.transaction():
        engine.value("retry_finished", lease.id)
        second = other.later(other.enqueue, key="k")
        sessions.await_waiting(other, second)
    assert done(second) == lease.id


def test_a_redrive_waits_for_its_key_before_it_holds_its_parent(
    engine: Engine, sessions: Sessions
) -> None:
    """The order of locks is keys, then waiting rows."""
    parent = engine.start()
    engine.spawn(parent, [{"task": "child", "key": "k"}, "other"])
    child = engine.claim()[0]
    engine.complete(child)
    redriver = sessions.open()
    with engine.conn.transaction():
        mine = engine.enqueue("child", key="k")
        redriven = redriver.later(redriver.value, "retry_finished", child.id)
        sessions.await_waiting(redriver, redriven)
        engine.query("select from perdure.waiting where id = %s for update nowait", parent.id)
        engine.value("cancel", mine)
    assert done(redriven) == child.id
    assert engine.status(child.id) == "ready"


@pytest.mark.parametrize("key_for", ["live", "ever", "1 hour"])
def test_a_key_lives_as_long_as_it_was_given(engine: Engine, key_for: str) -> None:
    lease = engine.start(key="k", key_for=key_for)
    engine.complete(lease)
    assert (engine.enqueue(key="k") == lease.id) == (key_for != "live")
