"""Rule 2: every move inserts what it deleted, and one execution's damage stays its own."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, outcome_of


@pytest.mark.parametrize("outcome", ["vanished", "", None, 7, ["completed"]])
def test_an_unknown_outcome_ends_its_execution_and_loses_nothing(
    engine: Engine, outcome: object
) -> None:
    odd, good = engine.start("odd"), engine.start("good")
    results = engine.finish(
        {"id": odd.id, "token": odd.token, "outcome": outcome}, outcome_of(good, "completed")
    )
    assert [r.result for r in results] == ["invalid", "recorded"]
    assert engine.get(odd.id)["error"]["type"] == "invalid_outcome"
    assert engine.statuses([odd.id, good.id]) == ["failed", "completed"]


def test_an_outcome_without_a_kind_ends_its_execution(engine: Engine) -> None:
    lease = engine.start()
    (result,) = engine.finish({"id": lease.id, "token": lease.token})
    assert (result.result, result.code) == ("invalid", "QD028")
    assert engine.status(lease.id) == "failed"


@pytest.mark.fsck(False)
def test_a_claim_gives_each_execution_its_own_input_though_one_has_lost_its_facts(
    engine: Engine,
) -> None:
    ids = [engine.enqueue(input={"n": n}) for n in range(5)]
    engine.run("delete from perdure.execution where id = %s", ids[2])
    leases = engine.claim(5)
    assert [(lease.id, lease.input["n"]) for lease in leases] == [(ids[n], n) for n in (0, 1, 3, 4)]
    found = engine.query("select status, error ->> 'type' as type from perdure.finished")
    assert found == [{"status": "failed", "type": "no_facts"}]


@pytest.mark.fsck(False)
def test_a_child_that_lost_its_facts_still_tells_its_parent(engine: Engine) -> None:
    parent = engine.start()
    (child,) = engine.spawn(parent, ["child"])
    engine.run("delete from perdure.execution where id = %s", child)
    assert engine.claim() == []
    engine.close_all()
    assert engine.status(parent.id) == "completed"


@pytest.mark.fsck(False)
@pytest.mark.parametrize("outcome", ["completed", "failed", "timed_out", "cancelled"])
def test_an_execution_whose_facts_vanish_while_it_runs_ends(engine: Engine, outcome: str) -> None:
    lease, mate = engine.start("lost"), engine.start("mate")
    engine.run("delete from perdure.execution where id = %s", lease.id)
    results = engine.finish(outcome_of(lease, outcome), outcome_of(mate, "completed"))
    assert [r.result for r in results] == ["recorded", "recorded"]
    assert engine.room(lease.id) == "finished"


def test_a_move_into_an_occupied_place_changes_nothing(engine: Engine) -> None:
    lease = engine.start()
    engine.run(
        "insert into perdure.finished"
        " (id, finished_at, token, attempts, crashes, iteration, status)"
        " values (%s, now(), 0, 0, 0, 0, 'completed')",
        lease.id,
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        engine.rows("finish", engine.worker, Jsonb([outcome_of(lease, "completed")]))
    assert engine.query("select id from perdure.running") == [{"id": lease.id}]
    engine.run("delete from perdure.finished")
