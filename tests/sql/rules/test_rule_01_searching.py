"""Rule 1: who must find an execution whatever its state looks room by room, until it is found."""

from __future__ import annotations

import random
from concurrent.futures import Future

import pytest

from fix_engine import Engine, outcome_of
from fix_sessions import Session, Sessions, done


def test_cancel_follows_an_execution_that_is_being_claimed(
    engine: Engine, sessions: Sessions
) -> None:
    id_ = engine.enqueue()
    other = sessions.open()
    with engine.conn.transaction():
        (lease,) = engine.claim()
        cancelled = other.later(other.value, "cancel", id_)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"
    assert engine.report(lease, "completed").result == "cancelled"


def test_cancel_follows_an_execution_through_several_rooms(
    engine: Engine, sessions: Sessions
) -> None:
    id_ = engine.enqueue(max_attempts=9, retry_delay="1 hour")
    other = sessions.open()
    with engine.conn.transaction():
        (lease,) = engine.claim()
        engine.report(lease, "released")
        (lease,) = engine.claim()
        engine.fail(lease)
        cancelled = other.later(other.value, "cancel", id_)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"
    assert engine.room(id_) == "finished"


def test_cancel_of_an_execution_that_goes_back_to_the_room_where_it_was(
    engine: Engine, sessions: Sessions
) -> None:
    id_ = engine.enqueue()
    other = sessions.open()
    with engine.conn.transaction():
        (lease,) = engine.claim()
        engine.report(lease, "released")
        cancelled = other.later(other.value, "cancel", id_)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"


def test_cancel_says_finished_when_the_end_came_first(engine: Engine, sessions: Sessions) -> None:
    lease = engine.start()
    other = sessions.open()
    with engine.conn.transaction():
        engine.complete(lease)
        cancelled = other.later(other.value, "cancel", lease.id)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "finished"
    assert engine.status(lease.id) == "completed"


def test_cancel_follows_a_parent_that_is_being_parked(engine: Engine, sessions: Sessions) -> None:
    lease = engine.start()
    other = sessions.open()
    with engine.conn.transaction():
        children = engine.spawn(lease, ["child"] * 3)
        cancelled = other.later(other.value, "cancel", lease.id)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"
    assert engine.statuses(children) == ["cancelled"] * 3


def test_what_is_not_found_is_requested_in_closing_and_never_unknown(engine: Engine) -> None:
    id_ = engine.enqueue()
    # as if it moved between any two looks
    engine.run("create table hidden as select * from perdure.ready")
    engine.run("delete from perdure.ready")
    assert engine.value("cancel", id_) == "pending"
    assert engine.value("close_batch") == 1, "it is owed on"
    engine.run("insert into perdure.ready select * from hidden")
    engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    assert engine.value("close_batch") == 1
    assert engine.status(id_) == "cancelled"
    assert engine.one("select count(*) from perdure.closing") == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_cancels_of_executions_that_never_rest(sessions: Sessions, seed: int) -> None:
    chance = random.Random(seed)
    control, canceller = sessions.open(), sessions.open()
    movers = [sessions.open() for _ in range(2)]
    ids = [control.enqueue(max_attempts=1000, retry_delay="0") for _ in range(20)]
    moving: list[Future[None]] = [
        mover.later(_move_on, mover, seed + n) for n, mover in enumerate(movers)
    ]
    chance.shuffle(ids)
    told = [canceller.value("cancel", id_) for id_ in ids]
    for mover in moving:
        done(mover)
    assert set(told) <= {"cancelled", "pending"}
    control.run("update perdure.closing set due_at = now() - interval '1 second'")
    control.close_all()
    assert control.statuses(ids) == ["cancelled"] * 20


def _move_on(mover: Session, seed: int) -> None:
    """Move whatever can be moved until nothing is left."""
    chance = random.Random(seed)
    while mover.one(
        "select exists (select from perdure.ready union all select from perdure.running)"
    ):
        with mover.conn.transaction():
            for lease in mover.claim(3):
                outcome = chance.choice(["released", "failed", "again"])
                mover.finish(outcome_of(lease, outcome, delay=0))
