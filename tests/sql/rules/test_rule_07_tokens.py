"""Rule 7: the token is a claim counter of its own, and a worker proves itself by a secret."""

from __future__ import annotations

from typing import Any

import pytest

from fix_engine import Engine, Lease
from fix_sessions import Sessions

_GO_ON: dict[str, dict[str, Any]] = {
    "released": {},
    "failed": {"delay": 0},
    "timed_out": {"delay": 0},
    "again": {"delay": 0},
}


@pytest.mark.parametrize("outcome", _GO_ON)
def test_every_claim_has_a_higher_token_and_the_old_one_is_refused(
    engine: Engine, outcome: str
) -> None:
    engine.enqueue(max_attempts=10)
    tokens = []
    stale: list[Lease] = []
    for _ in range(4):
        (lease,) = engine.claim()
        for old in stale:
            assert engine.report(old, "completed").result in ("lost", "already")
        assert engine.status(lease.id) == "running"
        engine.report(lease, outcome, **_GO_ON[outcome])
        tokens.append(lease.token)
        stale.append(lease)
    assert tokens == sorted(set(tokens))


def test_a_lease_that_was_taken_away_never_comes_back(engine: Engine, sessions: Sessions) -> None:
    """Handed back, crashed, overdue, cancelled and redriven: the counter only rises."""
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '0'")
    id_ = engine.enqueue(max_attempts=10, retry_delay="0")
    leases = []

    first = sessions.open()
    leases += first.claim()
    first.value("unregister_worker", first.worker)
    second = sessions.open()
    leases += second.claim()
    engine.lose_worker(second.conn)
    engine.row("sweep")
    leases += engine.claim()
    engine.value("cancel", id_)
    engine.value("retry_finished", id_)
    leases += engine.claim()
    tokens = [lease.token for lease in leases]
    assert tokens == sorted(set(tokens))
    assert [engine.report(lease, "completed").result for lease in leases[:-1]] == ["lost"] * 3
    assert engine.report(leases[-1], "completed").result == "recorded"


def test_another_worker_cannot_report_with_a_right_token(
    engine: Engine, sessions: Sessions
) -> None:
    lease = engine.start()
    other = sessions.open()
    result = other.report(lease, "completed")
    assert (result.result, result.code) == ("lost", "QD008")
    assert engine.status(lease.id) == "running"


@pytest.mark.parametrize("fresh_first", [True, False])
def test_an_old_and_a_live_token_of_one_execution_in_one_batch(
    engine: Engine, fresh_first: bool
) -> None:
    engine.enqueue(max_attempts=2, retry_delay="0")
    (old,) = engine.claim()
    engine.report(old, "released")
    (fresh,) = engine.claim()
    outcomes: list[dict[str, Any]] = [
        {"id": lease.id, "token": lease.token, "outcome": "completed", "output": lease.token}
        for lease in ((fresh, old) if fresh_first else (old, fresh))
    ]
    results = engine.finish(*outcomes)
    told = {outcome["token"]: one.result for outcome, one in zip(outcomes, results, strict=True)}
    assert told == {old.token: "lost", fresh.token: "recorded"}
    assert engine.get(fresh.id)["output"] == fresh.token


def test_nothing_that_can_be_read_shows_an_incarnation(engine: Engine) -> None:
    engine.start()
    shown = engine.query("select * from perdure.executions")
    assert engine.worker not in str(shown)
    uuids = """
      select distinct a.attrelid::regclass::text as relation
      from pg_attribute as a
      join pg_class as c on c.oid = a.attrelid
      where c.relnamespace = 'perdure'::regnamespace and a.atttypid = 'uuid'::regtype
        and c.relkind in ('r', 'v')
    """
    relations = {row["relation"] for row in engine.query(uuids)}
    assert relations == {"perdure.worker", "perdure.leader"}, "no view"
    returning = """
      select p.proname as name
      from pg_proc as p
      where p.pronamespace = 'perdure'::regnamespace and p.prorettype = 'uuid'::regtype
    """
    assert engine.query(returning) == [{"name": "register_worker"}]
