"""Rule 10: a lost reply loses and doubles nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fix_engine import Engine, outcome_of
from fix_sessions import Sessions, done


def test_claims_whose_reply_was_lost_go_back_unharmed(engine: Engine, sessions: Sessions) -> None:
    known, lost = (engine.enqueue(f"task {n}") for n in range(2))
    first = sessions.open()
    (lease,) = first.claim()
    first.claim()  # the reply of this one is lost
    engine.lose_worker(first.conn)
    back = sessions.open()
    held = back.rows("resume_worker", first.worker, [known], 7)
    assert held == [{"id": known, "token": lease.token}]
    assert (engine.status(lost), engine.get(lost)["attempt"], engine.get(lost)["crashes"]) == (
        "ready",
        0,
        0,
    )
    assert back.report(lease, "completed", worker=first.worker).result == "recorded"
    (again,) = engine.claim()
    assert again.id == lost


@pytest.mark.parametrize("outcome", ["completed", "failed", "again", "released", "spawned"])
def test_an_outcome_that_was_recorded_is_answered_already(engine: Engine, outcome: str) -> None:
    id_ = engine.enqueue(max_attempts=5, retry_delay="1 hour")
    lease = engine.claim_one(id_)
    fields: dict[str, Any] = (
        {"children": [{"task": "child", "delay": 60}]} if outcome == "spawned" else {}
    )
    assert engine.report(lease, outcome, **fields).result == "recorded"
    before = engine.dump()
    assert engine.report(lease, outcome, **fields).result == "already"
    assert engine.dump() == before


def test_a_call_from_before_the_resume_is_refused(engine: Engine, sessions: Sessions) -> None:
    first = sessions.open()
    engine.enqueue()
    engine.lose_worker(first.conn) if first.worker else None
    back, straggler = sessions.open(), sessions.open()
    back.rows("resume_worker", first.worker, [], 5)
    tried: list[dict[str, Any]] = [{"want": 1}, {"want": 0}, {"outcomes": []}]
    for given in tried:
        with pytest.raises(psycopg.Error) as caught:
            straggler.rows("exchange", first.worker, call=4, **given)
        assert caught.value.sqlstate == "QD009"
    assert len(back.row("exchange", first.worker, want=1, call=5)["claimed"]) == 1


def test_resume_waits_for_an_exchange_that_still_runs_and_lists_what_it_claimed(
    engine: Engine, sessions: Sessions
) -> None:
    """The server may still work on the old connection when the client has given it up."""
    id_ = engine.enqueue()
    control, straggler, back = (sessions.open() for _ in range(3))
    worker = control.worker
    engine.lose_worker(control.conn)
    with straggler.conn.transaction():
        assert straggler.row("exchange", worker, want=1, call=3)["claimed"]
        resumed = back.later(back.rows, "resume_worker", worker, [], 4)
        sessions.await_waiting(back, resumed)
    assert done(resumed) == []
    assert (engine.status(id_), engine.get(id_)["crashes"]) == ("ready", 0)


def test_an_exchange_that_comes_during_the_resume_waits_and_is_stale(
    engine: Engine, sessions: Sessions
) -> None:
    engine.enqueue()
    control, straggler, back = (sessions.open() for _ in range(3))
    worker = control.worker
    engine.lose_worker(control.conn)
    with back.conn.transaction():
        back.rows("resume_worker", worker, [], 4)
        refused = straggler.later(straggler.row, "exchange", worker, want=1, call=3)
        sessions.await_waiting(straggler, refused)
    with pytest.raises(psycopg.Error) as caught:
        done(refused)
    assert caught.value.sqlstate == "QD009"
    assert engine.one("select count(*) from perdure.running") == 0


def test_exchanges_of_one_incarnation_go_one_at_a_time(engine: Engine, sessions: Sessions) -> None:
    engine.enqueue()
    other = sessions.open()
    worker = engine.worker
    with engine.conn.transaction():
        engine.claim()
        engine.enqueue("second")
        second = other.later(other.rows, "claim_ready", worker, max=5)
        sessions.await_waiting(other, second)
    assert [row["task"] for row in done(second)] == ["second"]


def test_a_life_is_not_taken_over_from_a_session_that_lives(
    engine: Engine, sessions: Sessions
) -> None:
    other = sessions.open()
    with pytest.raises(psycopg.Error) as caught:
        other.rows("ping_worker", engine.worker)
    assert caught.value.sqlstate == "QD009"
    engine.row("sweep")
    assert engine.one("select lost_at is null from perdure.worker")


def test_every_exchange_says_which_leases_are_gone(engine: Engine, sessions: Sessions) -> None:
    leases = [engine.start(f"task {n}") for n in range(3)]
    other = sessions.open()
    other.value("cancel", leases[1].id)
    row = engine.row("exchange", engine.worker, held=[lease.id for lease in leases])
    assert row["gone"] == [leases[1].id]
    late = engine.row("exchange", engine.worker, [outcome_of(leases[1], "completed")])
    assert [one["result"] for one in late["results"]] == ["cancelled"]
