"""Rule 11: children count for the parking that spawned them, and for no other."""

from __future__ import annotations

import psycopg
import pytest

from fix_engine import Engine


def test_a_child_of_an_earlier_generation_does_not_count_for_a_later_one(engine: Engine) -> None:
    parent = engine.start("parent")
    (old,) = engine.spawn(parent, ["old"])
    engine.complete(engine.claim_one(old))
    engine.value("retry_finished", parent.id)
    (parent,) = engine.claim()
    (new,) = engine.spawn(parent, ["new"])
    assert engine.get(new)["parent_generation"] == 2

    with pytest.raises(psycopg.Error) as caught:
        engine.value("retry_finished", old)
    assert caught.value.sqlstate == "QD005"
    engine.value("retry_finished", old, detach=True)
    (lease,) = engine.claim(tasks=["old"])
    engine.complete(lease)
    assert engine.status(parent.id) == "waiting_for_children"
    engine.complete(engine.claim_one(new))
    assert engine.status(parent.id) == "completed"


def test_a_telling_of_another_generation_is_passed_over(engine: Engine) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child"])
    engine.value("decrement_parents", [parent.id], [7], [1], [0])
    assert engine.status(parent.id) == "waiting_for_children"


def test_a_redriven_child_of_a_parent_that_still_waits_counts_again(engine: Engine) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child", "child"])
    first, second = engine.claim(2)
    engine.complete(first)
    engine.value("retry_finished", first.id)
    engine.complete(second)
    assert engine.status(parent.id) == "waiting_for_children"
    (again,) = engine.claim()
    engine.complete(again, "anew")
    assert engine.status(parent.id) == "completed"
    assert engine.rows("children", parent.id)[0]["output"] == "anew"


def test_a_finalize_is_redriven_with_its_parent_only(engine: Engine) -> None:
    parent = engine.start()
    engine.spawn(parent, [], finalize={"task": "finalize"})
    (finalize,) = engine.claim()
    engine.complete(finalize)
    for detach in (False, True):
        with pytest.raises(psycopg.Error) as caught:
            engine.value("retry_finished", finalize.id, detach)
        assert caught.value.sqlstate == "QD005"
    assert engine.status(finalize.id) == "completed"


def test_a_redrive_takes_its_key_again_or_changes_nothing(engine: Engine) -> None:
    first = engine.start(key="k")
    engine.complete(first)
    second = engine.enqueue(key="k")
    before = engine.dump()
    with pytest.raises(psycopg.Error) as caught:
        engine.value("retry_finished", first.id)
    assert caught.value.sqlstate == "QD003"
    assert engine.dump() == before
    engine.value("cancel", second)
    engine.value("retry_finished", first.id)
    assert engine.enqueue(key="k") == first.id


def test_children_of_a_parent_redriven_after_its_deadline_are_not_born_dead(
    engine: Engine,
) -> None:
    parent = engine.start(deadline="2100-01-01")
    engine.run("update perdure.execution set deadline_at = now() - interval '1 hour'")
    engine.run("update perdure.running set deadline_at = now() - interval '1 hour'")
    engine.complete(parent)
    engine.value("retry_finished", parent.id)
    (parent,) = engine.claim()
    (child,) = engine.spawn(parent, ["child"])
    engine.row("sweep")
    assert engine.status(child) == "ready"
