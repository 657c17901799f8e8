"""Rule 5: who holds a room row waits upwards only; below, what is locked is left to closing."""

from __future__ import annotations

from fix_engine import Engine, outcome_of
from fix_sessions import Sessions, done


def test_a_cancel_passes_over_a_child_that_is_locked_and_closes_it_later(
    engine: Engine, sessions: Sessions
) -> None:
    parent = engine.start()
    child, free = engine.spawn(parent, ["child", "child"])
    claimer = sessions.open()
    with claimer.conn.transaction():
        (lease,) = claimer.claim()
        assert lease.id == child
        assert engine.value("cancel", parent.id) == "cancelled", "it did not wait"
        assert engine.status(free) == "cancelled"
        owed = engine.query("select kind, execution_id from perdure.closing")
        assert owed == [{"kind": "end", "execution_id": child}]
        engine.close_all()
        assert engine.one("select count(*) from perdure.closing") == 1, "it is owed on"
    engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    engine.close_all()
    assert engine.status(child) == "cancelled"
    assert claimer.report(lease, "completed").result == "cancelled"


def test_a_finish_waits_upwards_for_a_cancel_and_has_no_parent_left(
    engine: Engine, sessions: Sessions
) -> None:
    parent = engine.start()
    child, other = engine.spawn(parent, ["child", "child"])
    (lease,) = engine.claim()
    finisher = sessions.open()
    finisher.run("begin")
    finisher.query("select from perdure.running where id = %s for update", child)
    with engine.conn.transaction():
        assert engine.value("cancel", parent.id) == "cancelled", "it did not wait"
        outcome = outcome_of(lease, "completed")
        finished = finisher.later(finisher.finish, outcome, worker=engine.worker)
        sessions.await_waiting(finisher, finished)
    assert [one.result for one in done(finished)] == ["recorded"]
    finisher.run("commit")
    engine.close_all()
    assert engine.statuses([parent.id, child, other]) == ["cancelled", "completed", "cancelled"]


def test_a_cancel_waits_upwards_for_a_finish_and_finds_the_parent_ended(
    engine: Engine, sessions: Sessions
) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child"])
    (child,) = engine.claim()
    canceller = sessions.open()
    with engine.conn.transaction():
        engine.complete(child)
        cancelled = canceller.later(canceller.value, "cancel", parent.id)
        sessions.await_waiting(canceller, cancelled)
    assert done(cancelled) == "finished"
    assert engine.status(parent.id) == "completed"


def test_housekeeping_waits_for_no_parent(engine: Engine, sessions: Sessions) -> None:
    """It ends executions of many trees in one transaction, so any wait could close a circle."""
    parent = engine.start()
    (child,) = engine.spawn(parent, [{"task": "child", "timeout": 0.001}])
    engine.claim()
    holder = sessions.open()
    with holder.conn.transaction():
        holder.query("select from perdure.waiting where id = %s for update", parent.id)
        assert engine.value("expire_running") == 1
        assert engine.status(child) == "timed_out"
        owed = engine.query("select kind, execution_id, amount from perdure.closing")
        assert owed == [{"kind": "tell", "execution_id": parent.id, "amount": 1}]
    engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    engine.row("sweep")
    assert engine.status(parent.id) == "completed"


def test_an_end_does_not_wait_for_a_deadline_that_is_being_worked_off(
    engine: Engine, sessions: Sessions
) -> None:
    lease = engine.start(deadline="2100-01-01")
    holder = sessions.open()
    with holder.conn.transaction():
        holder.query("select from perdure.deadline where id = %s for update", lease.id)
        engine.complete(lease)
        holder.run("delete from perdure.deadline")
    assert engine.status(lease.id) == "completed"
