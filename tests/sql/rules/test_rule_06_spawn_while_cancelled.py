"""Rule 6: a node that spawns while its root is cancelled leaves no live leaves."""

from __future__ import annotations

import pytest

from fix_engine import Engine
from fix_sessions import Sessions, done


def test_a_node_that_spawns_while_its_root_is_cancelled(engine: Engine, sessions: Sessions) -> None:
    root = engine.start()
    (node,) = engine.spawn(root, ["node"])
    (lease,) = engine.claim()
    other = sessions.open()
    with engine.conn.transaction():
        leaves = engine.spawn(lease, ["leaf"] * 3)
        assert other.value("cancel", root.id) == "cancelled"
    assert engine.status(node) == "waiting_for_children"
    assert engine.fsck() == [], "it is owed, so nothing is wrong"
    assert engine.claim(5) == [], "none of them begins"
    engine.close_all()
    assert engine.statuses([node, *leaves]) == ["cancelled"] * 4


def test_a_cancel_of_the_very_node_that_spawns(engine: Engine, sessions: Sessions) -> None:
    root = engine.start()
    (node,) = engine.spawn(root, ["node"])
    (lease,) = engine.claim()
    other = sessions.open()
    with engine.conn.transaction():
        leaves = engine.spawn(lease, ["leaf"] * 3, finalize={"task": "finalize"})
        cancelled = other.later(other.value, "cancel", node)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"
    assert engine.statuses([node, *leaves]) == ["cancelled"] * 4
    assert engine.status(root.id) == "completed"


@pytest.mark.parametrize("phase", ["finalize", "steps"])
def test_a_parent_that_goes_on_while_it_is_cancelled(
    engine: Engine, sessions: Sessions, phase: str
) -> None:
    root = engine.start()
    if phase == "finalize":
        engine.spawn(root, ["child"], finalize={"task": "finalize"})
    else:
        engine.spawn(root, ["child", "second"], sequential=True)
    (lease,) = engine.claim()
    other = sessions.open()
    with engine.conn.transaction():
        engine.complete(lease)  # the next phase has begun
        cancelled = other.later(other.value, "cancel", root.id)
        sessions.await_waiting(other, cancelled)
    assert done(cancelled) == "cancelled"
    assert engine.claim(5) == []
    live = "select count(*) from perdure.ready"
    assert engine.one(live) == 0


def test_a_failing_fast_parent_keeps_its_finalize(engine: Engine) -> None:
    """The request to end the siblings may be worked off after the finalize has begun."""
    root = engine.start()
    engine.spawn(root, ["child", "child", "child"], fail_fast=True, finalize={"task": "finalize"})
    first, second, third = engine.claim(3)
    engine.fail(first)
    engine.complete(second)
    engine.complete(third)
    assert engine.status(root.id) == "waiting_for_finalize"
    engine.close_all()
    (finalize,) = engine.claim()
    engine.complete(finalize, "merged")
    assert (engine.status(root.id), engine.get(root.id)["output"]) == ("completed", "merged")


def test_a_cancel_of_more_than_its_limit_lets_no_descendant_begin(engine: Engine) -> None:
    engine.run("update perdure.config set cancel_limit = 3")
    root = engine.start()
    children = engine.spawn(root, ["child"] * 10, finalize={"task": "finalize"})
    bystander = engine.enqueue("bystander")
    assert engine.value("cancel", root.id) == "cancelled"
    live = "select count(*) from perdure.ready where task = 'child'"
    assert 0 < engine.one(live) < 10
    assert [lease.id for lease in engine.claim(20)] == [bystander]
    passes = engine.close_all()
    assert passes > 2
    assert engine.statuses(children) == ["cancelled"] * 10


def test_a_large_cancel_reaches_a_finalize_behind_many_children(engine: Engine) -> None:
    engine.run("update perdure.config set cancel_limit = 4")
    root = engine.start()
    engine.spawn(root, ["child"] * 9, finalize={"task": "finalize"})
    for lease in engine.claim(9):
        engine.complete(lease)
    assert engine.status(root.id) == "waiting_for_finalize"
    engine.value("cancel", root.id)
    engine.close_all()
    assert engine.one("select count(*) from perdure.ready") == 0
