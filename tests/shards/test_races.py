"""Transactions left open while another one comes: nobody waits, and no row is forgotten."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from fix_engine import outcome_of
from fix_sessions import Sessions, done
from fix_shards import Member, Shards


@pytest.fixture
def worker(shards: Shards) -> Member:
    shards.make(shards=1)
    return shards.join()


def _pay_debts(shards: Shards) -> None:
    """What closing owes is due a moment later."""
    shards.engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    shards.engine.row("sweep")
    assert shards.engine.one("select count(*) from perdure.closing") == 0


def _other_end(shards: Shards, member: Member) -> Member:
    """Another worker, with no shard: what it holds, it got before they changed hands."""
    shards.engine.run("update perdure.worker set is_healthy = false where id = %s", member.id)
    new = shards.join()
    assert set(shards.counts()) == {new.id}
    return new


def test_a_claim_does_not_hold_a_row_whose_turn_is_just_being_given_back(
    shards: Shards, worker: Member
) -> None:
    lease = worker.claim_one(shards.one("k"))
    second = shards.one("k")
    new = _other_end(shards, worker)
    with worker.session.conn.transaction():
        worker.complete(lease)
        assert new.claim_ids() == [], "it did not wait"
        assert shards.held() == []
    assert new.claim_ids() == [second]


def test_a_turn_behind_which_a_claim_is_holding_rows_is_given_back_later(
    shards: Shards, worker: Member
) -> None:
    first, second, _ = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    new = _other_end(shards, worker)
    shards.enqueue("k", 1)
    with new.session.conn.transaction():
        assert new.claim_ids() == []
        worker.complete(lease)  # it did not wait
    assert len(shards.held()) == 3
    assert new.claim_ids() == []
    assert shards.engine.fsck() == []
    _pay_debts(shards)
    assert new.claim_ids() == [second]


def test_a_claim_that_rolls_back_gives_the_turn_back_with_the_rows(
    shards: Shards, worker: Member
) -> None:
    first, second = shards.enqueue("k", 2)
    with worker.session.conn.transaction(force_rollback=True):
        assert worker.claim_ids() == [first]
    assert shards.turns() == shards.held() == []
    worker.complete(worker.claim_one(first))
    assert worker.claim_ids() == [second]


@pytest.mark.parametrize("is_held", [False, True])
def test_the_next_one_is_being_cancelled(
    shards: Shards, sessions: Sessions, worker: Member, is_held: bool
) -> None:
    """And the cancel is rolled back: it must not be passed, nor forgotten."""
    first, second, third = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    assert shards.held() == [second, third]
    if not is_held:
        shards.engine.run("update perdure.ready set is_held = false")
    other = sessions.open()
    with other.conn.transaction(force_rollback=True):
        assert other.value("cancel", second) == "cancelled"
        worker.complete(lease)
        assert worker.claim_ids() == [], "it did not wait, and the third one does not pass"
    _pay_debts(shards)
    worker.complete(worker.claim_one(second))
    assert worker.claim_ids() == [third]


def test_the_next_one_is_cancelled_while_the_turn_is_given_back(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    first, second, third = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    other = sessions.open()
    with other.conn.transaction():
        assert other.value("cancel", second) == "cancelled"
        worker.complete(lease)
    _pay_debts(shards)
    assert worker.claim_ids() == [third]


def test_a_cancel_that_waits_for_the_one_coming_into_the_line_calls_the_next(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    first, second, third = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    other = sessions.open()
    with worker.session.conn.transaction():
        worker.complete(lease)
        call = other.later(other.value, "cancel", second)
        sessions.await_waiting(other, call)
    assert done(call) == "cancelled"
    assert worker.claim_ids() == [third]


def test_a_parent_is_cancelled_while_a_claim_holds_rows_behind_it_and_will_tell_it(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    """The claim's transaction has the turn and wants the parent; the cancel the other way round."""
    first, second = shards.enqueue("k", 2)
    worker.report(worker.claim_one(first), "spawned", children=[{"task": "c", "queue": "q"}])
    other = sessions.open()
    with worker.session.conn.transaction():
        (child,) = worker.claim(100)
        with other.conn.transaction():
            assert other.value("cancel", first) == "cancelled", "it did not wait for the turn"
            late: Future[Any] = worker.session.later(worker.report, child, "completed")
            sessions.await_waiting(worker.session, late)
        assert done(late) == "recorded"
    _pay_debts(shards)
    shards.engine.close_all()
    assert worker.claim_ids() == [second]


def test_a_claim_steps_over_a_shard_that_is_changing_hands(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    id_ = shards.one("k")
    new = sessions.open()
    with new.conn.transaction():
        shards.engine.run("update perdure.worker set is_healthy = false where id = %s", worker.id)
        incarnation = str(new.value("register_worker", "new", ["q"]))
        assert new.one("select worker_id from perdure.shard") != worker.id
        assert worker.claim_ids() == [], "it did not wait"
    assert worker.claim_ids() == []
    assert [lease.id for lease in new.claim(5, incarnation)] == [id_]


def test_a_shard_does_not_change_hands_in_the_middle_of_a_claim(
    shards: Shards, worker: Member
) -> None:
    first, second = shards.enqueue("k", 2)
    shards.engine.run("update perdure.worker set is_healthy = false where id = %s", worker.id)
    with worker.session.conn.transaction():
        assert worker.claim_ids() == [first]
        new = shards.join()
        assert shards.owners() == {0: worker.id}
    shards.engine.row("sweep")
    assert shards.owners() == {0: new.id}
    assert new.claim_ids() == []
    assert shards.held() == [second]


def test_a_turn_that_was_owed_and_is_in_use_again_is_not_given_back(
    shards: Shards, worker: Member
) -> None:
    """With skip: it was handed back while a claim held rows behind it, and then claimed anew."""
    shards.make(shards=1, on_retry="skip")
    first, second = shards.enqueue("k", 2)
    lease = worker.claim_one(first)
    shards.engine.run("update perdure.ready set is_held = false")
    new = _other_end(shards, worker)
    with new.session.conn.transaction():
        assert new.claim_ids() == []
        assert worker.report(lease, "released") == "recorded"
    assert shards.turns() == [first]
    lease = new.claim_one(first)
    _pay_debts(shards)
    assert shards.turns() == [first]
    assert new.claim_ids() == []
    new.complete(lease)
    assert new.claim_ids() == [second]


def test_a_debt_is_paid_while_its_execution_is_being_claimed_anew(
    shards: Shards, worker: Member
) -> None:
    shards.make(shards=1, on_retry="skip")
    first, second = shards.enqueue("k", 2)
    lease = worker.claim_one(first)
    shards.engine.run("update perdure.ready set is_held = false")
    new = _other_end(shards, worker)
    with new.session.conn.transaction():
        assert new.claim_ids() == []
        assert worker.report(lease, "released") == "recorded"
    shards.engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    with new.session.conn.transaction():
        lease = new.claim_one(first)
        shards.engine.row("sweep")  # it did not wait
    assert shards.turns() == [first]
    _pay_debts(shards)
    assert shards.turns() == [first]
    new.complete(lease)
    assert new.claim_ids() == [second]


def test_one_enqueued_late_with_a_lower_id_goes_before_those_in_the_line(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    other = sessions.open()
    with other.conn.transaction():
        late = other.enqueue(queue="q", shard_key="k")
        first, second = shards.enqueue("k", 2)
        lease = worker.claim_one(first)
        assert shards.held() == [second]
    worker.complete(lease)
    worker.complete(worker.claim_one(late))
    assert worker.claim_ids() == [second]


def test_the_number_of_shards_waits_for_those_who_are_enqueuing(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    other, changing = sessions.open(), sessions.open()
    with other.conn.transaction():
        other.enqueue(queue="q", shard_key="k")
        other.enqueue(queue="q")
        call = changing.later(changing.value, "shard_queue", "q", 7)
        sessions.await_waiting(changing, call)
    with pytest.raises(Exception, match="live executions with a shard_key"):
        done(call)
    assert len(worker.claim_ids()) == 2


def test_one_who_enqueues_waits_for_the_number_of_shards(
    shards: Shards, sessions: Sessions, worker: Member
) -> None:
    other = sessions.open()
    with shards.engine.conn.transaction():
        shards.make(shards=7)
        plain = sessions.open()
        plain.enqueue(queue="q")  # it does not
        call = other.later(other.enqueue, queue="q", shard_key="k")
        sessions.await_waiting(other, call)
    id_ = done(call)
    assert id_ in worker.claim_ids()


def test_a_report_and_the_next_claim_of_its_key_are_one_exchange(
    shards: Shards, worker: Member
) -> None:
    ids = shards.enqueue("k", 10)
    (lease,) = worker.claim(100)
    seen = [lease.id]
    token = lease.token
    for _ in ids[1:]:
        outcome = outcome_of(lease, "completed") | {"id": seen[-1], "token": token}
        row = worker.exchange([outcome], want=5)
        ((id_, token, *_),) = row["claimed"]
        assert not row["wake"]
        seen.append(id_)
    assert seen == ids
