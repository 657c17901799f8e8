"""Rule 12: whatever is parked will end, and says so to its parent."""

from __future__ import annotations

import psycopg
import pytest

from fix_engine import Engine


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_parent_without_children_completes_at_once(
    engine: Engine, sequential: bool, fail_fast: bool
) -> None:
    lease = engine.start()
    engine.spawn(lease, [], output=7, sequential=sequential, fail_fast=fail_fast)
    assert (engine.status(lease.id), engine.get(lease.id)["output"]) == ("completed", 7)


def test_a_parent_without_children_begins_its_finalize_at_once(engine: Engine) -> None:
    lease = engine.start()
    engine.spawn(lease, [], finalize={"task": "finalize"})
    assert engine.status(lease.id) == "waiting_for_finalize"
    (finalize,) = engine.claim()
    engine.complete(finalize, 8)
    assert engine.get(lease.id)["output"] == 8


def test_a_nested_parent_without_children_tells_its_own(engine: Engine) -> None:
    root = engine.start()
    for _ in range(3):
        engine.spawn(root, ["inner", "inner"])
        for inner in engine.claim(2):
            engine.spawn(inner, [])
        assert engine.status(root.id) == "completed"
        engine.value("retry_finished", root.id)
        (root,) = engine.claim()
    engine.complete(root)


def test_a_counter_below_the_truth_is_set_right_and_fails_no_batch(engine: Engine) -> None:
    parent, mate = engine.start(), engine.start()
    engine.spawn(parent, ["child"] * 3)
    leases = engine.claim(3)
    engine.run("update perdure.waiting set active = 0")
    engine.complete(leases[0])
    assert engine.one("select active from perdure.waiting") == 2
    engine.complete(leases[1])
    engine.complete(leases[2])
    engine.complete(mate)
    assert engine.status(parent.id) == "completed"


def test_a_counter_above_the_truth_is_set_right_by_a_recount(engine: Engine) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child"] * 2)
    engine.run("update perdure.waiting set active = 9")
    for lease in engine.claim(2):
        engine.complete(lease)
    assert engine.one("select active from perdure.waiting") == 7
    engine.run(
        "insert into perdure.closing (kind, execution_id, generation, due_at)"
        " values ('recount', %s, 1, now())",
        parent.id,
    )
    engine.row("sweep")
    assert engine.status(parent.id) == "completed"


def test_the_counter_is_never_negative(engine: Engine) -> None:
    engine.spawn(engine.start(), ["child"])
    with pytest.raises(psycopg.errors.CheckViolation):
        engine.run("update perdure.waiting set active = -1")


def test_two_children_in_one_place_are_found(engine: Engine) -> None:
    engine.spawn(engine.start(), ["child", "child"])
    engine.run("update perdure.execution set position = 0 where position is not null")
    found = {row["invariant"] for row in engine.fsck()}
    engine.run("update perdure.execution set position = id where position is not null")
    assert found == {"children have different places"}
