"""What becomes of a dead worker's leases: recent ones are tried again, ancient ones may fail."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from fix_due import no_grace
from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Session, Sessions

DAY = 86_400


@pytest.fixture
def dying(engine: Engine, sessions: Sessions) -> Session:
    """The session of a worker; when it is killed, the next sweep gives the worker up."""
    no_grace(engine)
    session = sessions.open()
    assert session.worker
    return session


def _die(engine: Engine, dying: Session, after: float) -> None:
    engine.advance(after)
    engine.lose_worker(dying.conn)
    engine.row("sweep", "default")


def test_g18_a_recent_lease_of_a_dead_worker_is_tried_again(engine: Engine, dying: Session) -> None:
    engine.run("update perdure.config set stale_fail_after = '1 day'")
    engine.stop_clock()
    lease = dying.start(timeout="20 days")
    _die(engine, dying, DAY)  # exactly: not longer ago than that
    assert (engine.status(lease.id), engine.get(lease.id)["crashes"]) == ("ready", 1)


def test_g18_an_ancient_lease_of_a_dead_worker_fails(engine: Engine, dying: Session) -> None:
    engine.run("update perdure.config set stale_fail_after = '1 day'")
    lease = dying.start(timeout="20 days", max_attempts=5)
    _die(engine, dying, DAY + 1)
    got = engine.get(lease.id)
    assert (got["status"], got["error"]["type"], got["error"]["retryable"]) == (
        *("failed", "stale"),
        False,
    )


def test_g18_without_the_setting_age_does_not_matter(engine: Engine, dying: Session) -> None:
    lease = dying.start(timeout="20 days")
    _die(engine, dying, 15 * DAY)
    assert engine.status(lease.id) == "ready"


def test_g18_both_kinds_at_once_and_their_parents_hear_of_it(
    engine: Engine, dying: Session
) -> None:
    engine.run("update perdure.config set stale_fail_after = '1 day'")
    parent = dying.start("parent")
    ancient, recent = dying.spawn(parent, [{"task": "a", "timeout": 20 * DAY}, {"task": "b"}])
    dying.claim_one(ancient)
    engine.advance(DAY)
    dying.claim_one(recent)
    _die(engine, dying, 60)
    assert engine.statuses([ancient, recent]) == ["failed", "ready"]
    engine.complete(engine.claim_one(recent))
    assert engine.status(parent.id) == "completed", "a failed child does not fail its parent"


def test_g18_a_long_healthy_attempt_is_not_taken_away(engine: Engine, dying: Session) -> None:
    engine.run("update perdure.config set stale_fail_after = '1 second'")
    lease = dying.start(timeout="20 days")
    for _ in range(3):
        engine.advance(5 * DAY)
        assert engine.row("sweep", "default")["recovered"] == 0
    dying.complete(lease)
    assert engine.status(lease.id) == "completed"


def test_g18_what_a_zombie_reports_is_refused(
    engine: Engine, dying: Session, sessions: Sessions
) -> None:
    lease = dying.start()
    _die(engine, dying, 1)
    back = sessions.open()
    with pytest.raises(psycopg.Error) as caught:
        back.report(lease, "completed", worker=dying.worker)
    assert caught.value.sqlstate == "QD007"
    assert back.report(lease, "completed").result == "lost"
    assert engine.status(lease.id) == "ready"


def test_g18_what_kills_its_workers_is_parked(engine: Engine, sessions: Sessions) -> None:
    no_grace(engine)
    id_ = engine.enqueue("poison", max_crashes=2)
    for n in range(3):
        assert engine.status(id_) == "ready", n
        victim = sessions.open()
        victim.claim_one(id_)
        engine.lose_worker(victim.conn)
        engine.row("sweep", "default")
    got = engine.get(id_)
    assert (got["status"], got["error"]["type"]) == ("failed", "crashed")


# G15: fetching and outcomes, with our rule of retries


def _scheduled_in(engine: Engine, id_: int) -> float:
    wait = "extract(epoch from s.start_at - perdure._clock())"
    found = engine.one(f"select {wait} from perdure.scheduled as s where s.id = %s", id_)
    return round(float(found), 3)


def test_g15_a_fetch_is_atomic_and_skips_what_is_locked(engine: Engine, sessions: Sessions) -> None:
    first, second = engine.enqueue(), engine.enqueue()
    one, other = sessions.open(), sessions.open()
    assert other.worker
    with one.conn.transaction():
        assert [lease.id for lease in one.claim()] == [first]
        assert [lease.id for lease in other.claim()] == [second], "it did not wait"
        assert other.claim() == []


def test_g15_a_fetch_counts_the_attempt(engine: Engine) -> None:
    lease = engine.start(max_attempts=3, retry_delay="0 s")
    assert lease.attempt == 1
    engine.fail(lease)
    again = engine.claim_one(lease.id)
    assert again.attempt == 2
    assert engine.get(lease.id)["attempt"] == 2


def test_g15_a_fetch_respects_run_at(engine: Engine) -> None:
    now = engine.stop_clock()
    later = engine.enqueue(run_at=now + timedelta(seconds=10))
    assert engine.claim() == []
    engine.advance(9.9)
    assert engine.claim() == []
    engine.advance(0.1)
    assert [lease.id for lease in engine.claim()] == [later]


def test_g15_success(engine: Engine) -> None:
    lease = engine.start()
    engine.complete(lease, {"n": 1})
    got = engine.get(lease.id)
    assert (got["status"], got["output"], engine.room(lease.id)) == (
        *("completed", {"n": 1}),
        "finished",
    )


@pytest.mark.parametrize("outcome", ["failed", "timed_out"])
def test_g15_a_failure_or_time_out_is_tried_again_while_attempts_are_left(
    engine: Engine, outcome: str
) -> None:
    engine.stop_clock()
    lease = engine.start(max_attempts=2, retry_delay="5 s", retry_jitter=0.0)
    engine.report(lease, outcome, error={"type": "E", "message": "boom"})
    assert _scheduled_in(engine, lease.id) == 5, "the first retry waits the base delay"
    engine.advance(5)
    engine.row("sweep", "default")
    engine.report(engine.claim_one(lease.id), outcome, error={"type": "E", "message": "boom"})
    got = engine.get(lease.id)
    assert (got["status"], got["attempt"], got["error"]["message"]) == (outcome, 2, "boom")


@pytest.mark.parametrize(
    ("backoff", "waits"), [("exponential", [30, 60, 120, 240]), ("linear", [30, 60, 90, 120])]
)
def test_g15_back_off(engine: Engine, backoff: str, waits: list[float]) -> None:
    engine.stop_clock()
    lease: Lease = engine.start(
        max_attempts=5, retry_delay="30 s", retry_jitter=0.0, retry_backoff=backoff
    )
    for wait in waits:
        engine.fail(lease)
        assert _scheduled_in(engine, lease.id) == wait
        engine.advance(wait)
        engine.row("sweep", "default")
        lease = engine.claim_one(lease.id)


def test_g15_back_off_is_at_most_a_day(engine: Engine) -> None:
    engine.stop_clock()
    lease = engine.start(
        max_attempts=3,
        retry_delay="24 h",
        retry_max_delay="24 h",
        retry_multiplier=100.0,
        retry_jitter=0.0,
    )
    for _ in range(2):
        engine.fail(lease)
        assert _scheduled_in(engine, lease.id) == DAY
        engine.advance(DAY)
        engine.row("sweep", "default")
        lease = engine.claim_one(lease.id)


def test_g15_an_attempt_that_nobody_reports_times_out(engine: Engine) -> None:
    lease = engine.start(timeout="5 min", max_attempts=2, retry_delay="0 s")
    engine.advance(301)
    assert engine.row("sweep", "default")["recovered"] == 1
    assert engine.get(lease.id)["attempt"] == 1, "used up"
    assert engine.report(lease, "completed").result == "lost"


def test_g15_no_retry_is_one_attempt_and_none_is_refused(engine: Engine) -> None:
    """`max_attempts` counts runs: theirs of 0, which still runs once, is ours of 1."""
    lease = engine.start()
    engine.fail(lease)
    assert (engine.status(lease.id), engine.get(lease.id)["attempt"]) == ("failed", 1)
    with pytest.raises(psycopg.Error) as caught:
        engine.enqueue(max_attempts=0)
    assert caught.value.sqlstate == "QD024"


def test_g15_an_outcome_demands_the_lease(engine: Engine) -> None:
    lease = engine.start(max_attempts=2, retry_delay="0 s")
    engine.fail(lease)
    again = engine.claim_one(lease.id)
    assert engine.finish(outcome_of(lease, "completed"))[0].result in ("lost", "already")
    engine.complete(again)
