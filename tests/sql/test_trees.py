"""Trees: children, finalize, sequences, fail fast, cancel, redrive, again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Lease, Row, outcome_of


def claim(engine: Engine, task: str) -> Lease:
    (lease,) = engine.claim(tasks=[task])
    return lease


def drain(engine: Engine, batch: int = 1000) -> None:
    """Complete whatever is due, each with its own input as output."""
    while leases := engine.claim(batch):
        engine.finish(*(outcome_of(one, "completed", output=one.input) for one in leases))


def outcomes(engine: Engine, parent: int) -> list[tuple[str, Any]]:
    return [(row["status"], row["output"]) for row in engine.rows("children", parent)]


# Children -----------------------------------------------------------------------------------------


def test_children_keep_the_order_given_whatever_the_order_of_their_ends(engine: Engine) -> None:
    parent = engine.start("parent")
    ids = engine.spawn(parent, [{"task": f"c{n}", "input": n} for n in range(20)], output="own")
    for n in reversed(range(20)):
        assert engine.status(parent.id) == "waiting_for_children"
        engine.complete(claim(engine, f"c{n}"), n * 10)
    rows = engine.rows("children", parent.id)
    assert [row["id"] for row in rows] == ids
    assert [row["position"] for row in rows] == list(range(20))
    assert [row["output"] for row in rows] == [n * 10 for n in range(20)]
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", "own")


def test_children_are_read_in_pages(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [f"c{n}" for n in range(5)])
    pages = []
    after = -1
    while page := engine.rows("children", parent.id, after=after, max=2):
        pages.append([row["position"] for row in page])
        after = pages[-1][-1]
    assert pages == [[0, 1], [2, 3], [4]]


def test_a_child_knows_its_place(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["child", "second"], finalize={"task": "finalize"})
    child = claim(engine, "child")
    (grandchild_id,) = engine.spawn(child, ["grandchild"])
    grandchild = claim(engine, "grandchild")
    assert child.extra == {"parent_id": root.id, "root_id": root.id, "position": 0}
    assert grandchild.extra == {"parent_id": child.id, "root_id": root.id, "position": 0}
    assert claim(engine, "second").extra["position"] == 1
    assert engine.get(grandchild_id)["root_id"] == root.id


def test_a_failed_child_does_not_fail_its_parent(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["good", "bad"], output=1)
    engine.fail(claim(engine, "bad"))
    engine.complete(claim(engine, "good"), "fine")
    assert engine.status(parent.id) == "completed"
    assert outcomes(engine, parent.id) == [("completed", "fine"), ("failed", None)]


def test_a_parent_without_children_completes_at_once(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], output={"own": 1})
    assert engine.get(parent.id)["output"] == {"own": 1}
    assert engine.status(parent.id) == "completed"


def test_a_sequence_of_no_steps_completes_at_once(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], output=1, sequential=True)
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", 1)


def test_no_children_but_a_finalize_is_a_finalize(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], output="own", finalize={"task": "finalize"})
    assert engine.status(parent.id) == "waiting_for_finalize"
    lease = claim(engine, "finalize")
    assert lease.input == {"parent": parent.id, "generation": 1}
    assert lease.extra["is_finalize"] is True
    engine.complete(lease, "merged")
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", "merged")


def test_parents_without_children_end_through_every_level(engine: Engine) -> None:
    top = engine.start("top")
    engine.spawn(top, ["middle"])
    engine.spawn(claim(engine, "middle"), [])
    assert engine.status(top.id) == "completed"


@pytest.mark.parametrize("nested", [False, True])
def test_children_that_end_in_one_batch_end_all_their_parents(engine: Engine, nested: bool) -> None:
    grandparent = engine.start("grandparent")
    engine.spawn(grandparent, [f"parent_{n}" for n in range(5)])
    for n in range(5):
        parent = claim(engine, f"parent_{n}")
        engine.spawn(parent, [f"child_{n}_{m}" for m in range(3)])
    if nested:
        for lease in engine.claim(100):
            engine.spawn(lease, [f"leaf_of_{lease.task}"])
    leaves = engine.claim(100)
    assert len(leaves) == 15
    results = engine.finish(*(outcome_of(leaf, "completed") for leaf in leaves))
    assert {one.result for one in results} == {"recorded"}
    assert engine.status(grandparent.id) == "completed"
    assert engine.query("select * from perdure.closing") == []


def test_a_climb_past_more_parents_than_its_bound_goes_on_through_closing(
    engine: Engine,
) -> None:
    amount = 1005
    top = engine.start("top")
    engine.spawn(top, ["parent"] * amount)
    parents = engine.claim(amount)
    engine.finish(*(outcome_of(one, "spawned", children=[{"task": "leaf"}]) for one in parents))
    leaves = engine.claim(amount)
    engine.finish(*(outcome_of(one, "completed") for one in leaves))
    assert engine.status(top.id) == "waiting_for_children"
    assert engine.fsck() == [], "what is still owed stands in closing"
    engine.close_all()
    assert engine.status(top.id) == "completed"


# All or nothing -----------------------------------------------------------------------------------

BAD_CHILDREN: dict[str, Any] = {
    "no name": {"task": ""},
    "no object": "child",
    "too large an input": {"task": "child", "input": "x" * (1 << 20)},
    "a timeout of nothing": {"task": "child", "timeout": 0},
    "a deadline in the past": {"task": "child", "deadline": -1},
    "an unknown field": {"task": "child", "colour": "red"},
    "a key that is taken": {"task": "taken", "key": "k"},
    "the key of its sibling": {"task": "sibling", "key": "s"},
    "a sleeper without a key": {"task": "child", "sleeping": True},
}


@pytest.mark.parametrize("what", BAD_CHILDREN)
def test_one_bad_child_fails_the_parent_with_the_reason_and_no_child_is_created(
    engine: Engine, what: str
) -> None:
    engine.enqueue("taken", key="k")
    parent = engine.start("parent", max_attempts=3)
    before = engine.dump()
    children = [{"task": "good"}, {"task": "sibling", "key": "s"}, BAD_CHILDREN[what]]

    result = engine.report(parent, "spawned", children=children, finalize={"task": "finalize"})

    assert (result.result, result.code) == ("failed", "QD027")
    error = engine.get(parent.id)["error"]
    assert (error["type"], error["retryable"]) == ("invalid_child", False)
    assert error["message"].startswith("child 2"), error["message"]
    after = engine.dump()
    for table in ("execution", "ready", "waiting", "scheduled", "key", "parked", "step"):
        assert after[table] == before[table], table


def test_a_bad_step_far_down_a_sequence_is_refused_before_the_first_begins(
    engine: Engine,
) -> None:
    parent = engine.start("parent")
    result = engine.report(
        parent, "spawned", sequential=True, children=[{"task": "a"}, {"task": "b"}, {"task": "\n"}]
    )
    assert (result.result, result.code) == ("failed", "QD027")
    assert engine.one("select count(*) from perdure.execution") == 1


# Finalize -----------------------------------------------------------------------------------------


def test_finalize_runs_after_the_last_child_also_when_children_failed(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["good", "bad"], output="own", finalize={"task": "finalize"})
    engine.complete(claim(engine, "good"), 1)
    assert engine.status(parent.id) == "waiting_for_children"
    engine.fail(claim(engine, "bad"))
    finalize = claim(engine, "finalize")
    assert engine.status(parent.id) == "waiting_for_finalize"
    assert outcomes(engine, parent.id) == [("completed", 1), ("failed", None)]
    assert engine.get(parent.id)["output"] == "own", "finalize can read the parent's own output"
    engine.complete(finalize, "decided")
    assert engine.get(parent.id)["output"] == "decided"


@pytest.mark.parametrize("ending", ["failed", "timed_out", "cancelled"])
def test_a_finalize_that_does_not_complete_makes_its_parent_finalize_failed(
    engine: Engine, ending: str
) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["child"], finalize={"task": "finalize"})
    engine.complete(claim(engine, "child"))
    finalize = claim(engine, "finalize")
    engine.report(finalize, ending, error={"type": "Odd", "message": "no"})
    row = engine.get(parent.id)
    assert row["status"] == "finalize_failed"
    assert (row["error"]["type"], row["error"]["message"]) == ("Odd", "no")


def test_a_finalize_is_retried_by_its_own_policy(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(
        parent, ["child"], finalize={"task": "finalize", "max_attempts": 2, "retry_delay": 0}
    )
    engine.complete(claim(engine, "child"))
    engine.fail(claim(engine, "finalize"))
    assert engine.status(parent.id) == "waiting_for_finalize"
    second = claim(engine, "finalize")
    assert second.attempt == 2
    engine.complete(second, "at last")
    assert engine.get(parent.id)["output"] == "at last"


def test_a_finalize_may_be_a_parent_with_a_finalize_to_any_depth(engine: Engine) -> None:
    depth = 30
    top = engine.start("level")
    lease = top
    for n in range(depth):
        engine.spawn(lease, [f"child_{n}"], output=n, finalize={"task": "level"})
        engine.complete(claim(engine, f"child_{n}"))
        lease = claim(engine, "level")
        assert lease.extra["root_id"] == top.id
    engine.complete(lease, "bottom")
    assert (engine.status(top.id), engine.get(top.id)["output"]) == ("completed", "bottom")
    rows = engine.rows("tree", top.id)
    assert len(rows) == 1 + 2 * depth
    assert max(row["depth"] for row in rows) == depth
    assert {row["status"] for row in rows} == {"completed"}


# Sequences ----------------------------------------------------------------------------------------


def test_a_sequence_feeds_each_step_with_the_output_before_it(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["first", "second", "third"], output="seed", sequential=True)
    assert engine.rows("children", parent.id)[1:] == [], "later steps do not exist yet"
    first = claim(engine, "first")
    assert first.input == "seed"
    engine.complete(first, {"n": 1})
    second = claim(engine, "second")
    assert second.input == {"n": 1}
    engine.complete(second, None)
    third = claim(engine, "third")
    assert third.input is None
    assert third.extra == {"parent_id": parent.id, "root_id": parent.id, "position": 2}
    engine.complete(third, "end")
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", "end")


def test_a_step_with_an_input_of_its_own_keeps_it(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(
        parent,
        [{"task": "first", "input": "mine"}, {"task": "second", "input": ["too"]}],
        output="seed",
        sequential=True,
    )
    first = claim(engine, "first")
    assert first.input == "mine"
    engine.complete(first, "unused")
    assert claim(engine, "second").input == ["too"]


def test_a_sequence_of_one_step_is_that_step(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["only"], output=1, sequential=True)
    engine.complete(claim(engine, "only"), 2)
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", 2)


@pytest.mark.parametrize("ending", ["failed", "timed_out", "cancelled"])
def test_a_step_that_does_not_complete_stops_its_sequence_as_finalize_failed(
    engine: Engine, ending: str
) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["first", "second", "third"], sequential=True)
    engine.complete(claim(engine, "first"))
    engine.report(claim(engine, "second"), ending, error={"message": "the disk is full"})
    row = engine.get(parent.id)
    assert row["status"] == "finalize_failed"
    assert row["error"]["type"] == "child_failed"
    assert row["error"]["message"] == f"step 1 (second) {ending}: the disk is full"
    assert [child["status"] for child in engine.rows("children", parent.id)] == [
        "completed",
        ending,
    ]
    assert engine.query("select * from perdure.step") == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_sequence_with_a_finalize_leaves_the_decision_to_it(engine: Engine, fails: bool) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["first", "second"], sequential=True, finalize={"task": "finalize"})
    first = claim(engine, "first")
    if fails:
        engine.fail(first)
    else:
        engine.complete(first)
        engine.complete(claim(engine, "second"))
    engine.complete(claim(engine, "finalize"), "decided")
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", "decided")


def test_a_sequence_in_a_sequence_gives_its_last_output_on(engine: Engine) -> None:
    outer = engine.start("outer")
    engine.spawn(outer, ["inner", "after"], sequential=True)
    engine.spawn(claim(engine, "inner"), ["a", "b"], output=0, sequential=True)
    engine.complete(claim(engine, "a"), 1)
    engine.complete(claim(engine, "b"), 2)
    after = claim(engine, "after")
    assert after.input == 2
    engine.complete(after, 3)
    assert engine.get(outer.id)["output"] == 3


def test_a_long_sequence_begins_one_step_at_a_time(engine: Engine) -> None:
    steps = 200
    parent = engine.start("parent")
    engine.spawn(parent, ["step"] * steps, output=0, sequential=True)
    for n in range(steps):
        step = claim(engine, "step")
        assert step.input == n
        engine.complete(step, n + 1)
    assert engine.get(parent.id)["output"] == steps


# Fail fast ----------------------------------------------------------------------------------------


def test_fail_fast_cancels_the_siblings_and_fails_the_parent(engine: Engine) -> None:
    parent = engine.start("parent")
    ids = engine.spawn(parent, ["bad", "ready", "running", "later"], fail_fast=True)
    running = claim(engine, "running")
    engine.spawn(claim(engine, "later"), ["grandchild"])
    engine.fail(claim(engine, "bad"))
    engine.close_all()
    assert engine.statuses(ids) == ["failed", "cancelled", "cancelled", "cancelled"]
    row = engine.get(parent.id)
    assert (row["status"], row["error"]["type"]) == ("failed", "child_failed")
    assert engine.report(running, "completed").result == "cancelled"
    assert engine.claim(10) == []


def test_fail_fast_with_a_finalize_lets_it_decide(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["bad", "other"], fail_fast=True, finalize={"task": "finalize"})
    engine.fail(claim(engine, "bad"))
    engine.close_all()
    assert engine.status(parent.id) == "waiting_for_finalize"
    engine.complete(claim(engine, "finalize"), "decided")
    assert (engine.status(parent.id), engine.get(parent.id)["output"]) == ("completed", "decided")


def test_a_finalize_that_began_before_the_siblings_were_cancelled_is_left_alone(
    engine: Engine,
) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["bad", "quick"], fail_fast=True, finalize={"task": "finalize"})
    engine.fail(claim(engine, "bad"))
    engine.complete(claim(engine, "quick"))
    finalize = claim(engine, "finalize")
    engine.close_all()
    assert engine.status(finalize.id) == "running"
    engine.complete(finalize, "decided")
    assert engine.get(parent.id)["output"] == "decided"


def test_fail_fast_does_not_begin_the_next_step(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["bad", "next"], sequential=True, fail_fast=True)
    engine.fail(claim(engine, "bad"))
    engine.close_all()
    assert engine.status(parent.id) == "finalize_failed"
    assert engine.one("select count(*) from perdure.execution") == 2


def test_fail_fast_without_a_failure_changes_nothing(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["a", "b"], fail_fast=True, output=1)
    drain(engine)
    assert engine.status(parent.id) == "completed"


# Deadlines ----------------------------------------------------------------------------------------


def test_a_child_s_deadline_is_at_most_its_parent_s(engine: Engine) -> None:
    now = engine.stop_clock()
    parent = engine.start("parent", deadline=now + timedelta(hours=1))
    ids = engine.spawn(
        parent,
        [
            {"task": "none"},
            {"task": "later", "deadline": 7200},
            {"task": "sooner", "deadline": 60},
            {"task": "nap", "sleeping": True, "key": "k"},
        ],
        finalize={"task": "finalize"},
    )
    deadlines = [(engine.get(id)["deadline_at"] - now).total_seconds() for id in ids]  # noqa: A001
    assert deadlines == [3600, 3600, 60, 3600]
    engine.rows("wake", "nap", "k")
    drain(engine)
    finalize = engine.rows("tree", parent.id)[-1]
    assert engine.get(finalize["id"])["deadline_at"] - now == timedelta(hours=1)


def test_a_redriven_parent_s_children_do_not_inherit_a_deadline_that_has_passed(
    engine: Engine,
) -> None:
    now = engine.stop_clock()
    parent = engine.start("parent", deadline=now + timedelta(hours=1))
    engine.advance(3601)
    assert engine.value("expire_deadlines") == 1
    assert engine.status(parent.id) == "timed_out"
    engine.value("retry_finished", parent.id)
    (child,) = engine.spawn(engine.claim_one(parent.id), ["child"])
    assert engine.value("expire_deadlines") == 0
    assert engine.status(child) == "ready"


# Sleepers in trees --------------------------------------------------------------------------------


def test_a_sleeping_child_holds_its_parent_until_it_is_woken(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [{"task": "nap", "sleeping": True, "key": "k"}, "other"])
    engine.complete(claim(engine, "other"))
    assert engine.status(parent.id) == "waiting_for_children"
    engine.rows("wake", "nap", "k", Jsonb({"yes": True}))
    assert engine.status(parent.id) == "completed"
    assert outcomes(engine, parent.id)[0] == ("completed", {"yes": True})


def test_a_sleeping_step_is_woken_by_the_output_before_it(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["ask", {"task": "nap", "sleeping": True}, "use"], sequential=True)
    engine.complete(claim(engine, "ask"), "order 7")
    assert engine.rows("children", parent.id)[1]["status"] == "sleeping"
    engine.rows("wake", "nap", "order 7", Jsonb("approved"))
    use = claim(engine, "use")
    assert use.input == "approved"
    engine.complete(use)
    assert engine.status(parent.id) == "completed"


def test_a_sleeping_step_without_a_key_ends_its_sequence_alone(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["ask", {"task": "nap", "sleeping": True}], sequential=True)
    mate = engine.start("mate")
    results = engine.finish(
        outcome_of(claim(engine, "ask"), "completed", output=7), outcome_of(mate, "completed")
    )
    assert [one.result for one in results] == ["recorded", "recorded"]
    row = engine.get(parent.id)
    assert (row["status"], row["error"]["type"]) == ("failed", "invalid_child")
    assert row["error"]["message"].startswith("step 1: ")


def test_a_sleeping_child_whose_key_is_taken_is_a_bad_child(engine: Engine) -> None:
    engine.enqueue("nap", sleeping=True, key="k")
    parent = engine.start("parent")
    nap = {"task": "nap", "sleeping": True, "key": "k"}
    assert engine.report(parent, "spawned", children=[nap]).code == "QD027"


# Any number ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_children_and_their_finalize(engine: Engine) -> None:
    amount, batch = 100_000, 10_000
    engine.run("set statement_timeout = '60 s'")
    parent = engine.start("parent")
    children = Jsonb([{"task": "child", "input": n} for n in range(amount)])
    assert (
        engine.one(
            "select result from perdure.finish(%s, jsonb_build_array(jsonb_build_object("
            " 'id', %s::bigint, 'token', %s::int, 'outcome', 'spawned', 'children', %s::jsonb,"
            " 'finalize', jsonb_build_object('task', 'finalize'))))",
            engine.worker,
            parent.id,
            parent.token,
            children,
        )
        == "recorded"
    )
    done = 0
    while done < amount:
        assert engine.status(parent.id) == "waiting_for_children"
        # what a worker does: claim and report in one call, each output computed from the input
        (row,) = engine.query(
            """
            with claimed as materialized (
              select jsonb_agg(jsonb_build_object(
                'id', c.id, 'token', c.token, 'outcome', 'completed', 'output', c.input
              )) as outcomes, count(*) as amount
              from perdure.claim_ready(%s, tasks => '{child}', max => %s) as c
            )
            select c.amount, (
              select count(*) from perdure.finish(%s, c.outcomes) as f where f.result = 'recorded'
            ) as recorded
            from claimed as c
            """,
            engine.worker,
            batch,
            engine.worker,
        )
        assert row["amount"] == row["recorded"] == batch
        done += batch
    assert engine.status(parent.id) == "waiting_for_finalize"
    last = engine.rows("children", parent.id, after=amount - 2)
    assert [(row["position"], row["output"]) for row in last] == [(amount - 1, amount - 1)]
    engine.complete(claim(engine, "finalize"), amount)
    assert engine.get(parent.id)["output"] == amount


@pytest.mark.slow
def test_twenty_five_thousand_descendants_are_cancelled_in_bounded_passes(
    engine: Engine,
) -> None:
    width, limit = 25_000, 2_500
    engine.run("update perdure.config set cancel_limit = %s", limit)
    root = engine.start("root")
    branches = engine.spawn(root, ["branch"] * 5)
    for lease in engine.claim(5, tasks=["branch"]):
        engine.report(lease, "spawned", children=[{"task": "leaf"}] * (width // 5))

    assert engine.value("cancel", root.id, "enough") == "cancelled"

    assert engine.status(root.id) == "cancelled"
    left = [engine.one("select count(*) from perdure.ready")]
    assert left[0] >= width - limit
    assert engine.fsck() == [], "what is still owed stands in closing"
    while engine.value("close_batch"):
        assert engine.claim(100) == [], "none is claimed while the rest is worked off"
        left.append(engine.one("select count(*) from perdure.ready"))
        assert left[-2] - left[-1] <= limit
    assert len(left) > (width - limit) // limit
    assert left[-1] == 0
    progress = {row["status"]: row["executions"] for row in engine.rows("tree_progress", root.id)}
    assert progress == {"cancelled": 1 + len(branches) + width}


def test_a_cancel_takes_the_whole_live_subtree_and_nothing_else(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["done", "running", "ready", "parent", {"task": "late", "delay": 60}])
    engine.complete(claim(engine, "done"), 1)
    running = claim(engine, "running")
    parent = claim(engine, "parent")
    engine.spawn(parent, [{"task": "nap", "sleeping": True, "key": "k"}, "leaf"])
    bystander = engine.start("bystander")

    assert engine.value("cancel", root.id, "no longer wanted") == "cancelled"

    statuses = {row["task"]: row["status"] for row in engine.rows("tree", root.id)}
    assert statuses == dict.fromkeys(
        ("root", "running", "ready", "parent", "late", "nap", "leaf"), "cancelled"
    ) | {"done": "completed"}
    assert engine.get(root.id)["error"]["message"] == "no longer wanted"
    assert engine.report(running, "completed").result == "cancelled"
    assert engine.row("exchange", engine.worker, held=[running.id, bystander.id])["gone"] == [
        running.id
    ]
    assert engine.query("select * from perdure.key") == []
    assert engine.value("cancel", root.id) == "finished"


def test_a_cancelled_child_counts_for_its_parent(engine: Engine) -> None:
    parent = engine.start("parent")
    child, _ = engine.spawn(parent, ["child", "other"])
    engine.value("cancel", child)
    engine.complete(claim(engine, "other"))
    assert engine.status(parent.id) == "completed"


def test_a_cancelled_finalize_makes_its_parent_finalize_failed(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], finalize={"task": "finalize"})
    engine.value("cancel", claim(engine, "finalize").id)
    assert engine.status(parent.id) == "finalize_failed"


# Redrive ------------------------------------------------------------------------------------------


def test_a_redriven_parent_runs_its_body_again_and_counts_only_its_new_children(
    engine: Engine,
) -> None:
    parent = engine.start("parent")
    (old,) = engine.spawn(parent, ["child"], finalize={"task": "finalize"})
    engine.fail(claim(engine, "child"))
    engine.fail(claim(engine, "finalize"))
    assert engine.status(parent.id) == "finalize_failed"

    engine.value("retry_finished", parent.id)
    again = engine.claim_one(parent.id)
    assert (again.attempt, again.token > parent.token) == (1, True)
    new = engine.spawn(again, ["child", "child"], finalize={"task": "finalize"})
    assert old not in new
    for lease in engine.claim(2, tasks=["child"]):
        engine.complete(lease, "new")
    finalize = claim(engine, "finalize")
    assert finalize.input == {"parent": parent.id, "generation": 2}
    assert outcomes(engine, parent.id) == [("completed", "new")] * 2
    former = engine.rows("children", parent.id, generation=1)
    assert [(row["id"], row["status"]) for row in former] == [(old, "failed")]
    engine.complete(finalize)
    assert engine.status(parent.id) == "completed"


def test_a_redriven_child_counts_again_while_its_parent_waits(engine: Engine) -> None:
    parent = engine.start("parent")
    first, _ = engine.spawn(parent, ["first", "second"])
    engine.fail(claim(engine, "first"))
    engine.value("retry_finished", first)
    engine.complete(claim(engine, "second"))
    assert engine.status(parent.id) == "waiting_for_children"
    engine.complete(claim(engine, "first"), "better")
    assert engine.status(parent.id) == "completed"
    assert outcomes(engine, parent.id)[0] == ("completed", "better")


def redriven_child(engine: Engine) -> tuple[Lease, int]:
    """A parent that has spawned anew, and an old child of it."""
    parent = engine.start("parent")
    (old,) = engine.spawn(parent, ["child"])
    engine.fail(claim(engine, "child"))
    engine.value("retry_finished", parent.id)
    return engine.claim_one(parent.id), old


@pytest.mark.parametrize("is_waiting_anew", [False, True])
def test_a_child_whose_parent_ended_or_moved_on_is_refused(
    engine: Engine, is_waiting_anew: bool
) -> None:
    parent, old = redriven_child(engine)
    if is_waiting_anew:
        engine.spawn(parent, ["child"])
    else:
        engine.complete(parent)
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.value("retry_finished", old)
    assert raised.value.sqlstate == "QD005"
    assert engine.dump() == before


def test_a_detached_child_runs_and_tells_nobody(engine: Engine) -> None:
    parent, old = redriven_child(engine)
    (new,) = engine.spawn(parent, ["child"])
    engine.value("retry_finished", old, detach=True)
    leases = {lease.id: lease for lease in engine.claim(2, tasks=["child"])}
    engine.complete(leases[old])
    assert engine.status(parent.id) == "waiting_for_children", "rule 11"
    engine.complete(leases[new])
    assert engine.status(parent.id) == "completed"


@pytest.mark.parametrize("detach", [False, True])
def test_a_finalize_is_redriven_only_with_its_parent(engine: Engine, detach: bool) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], finalize={"task": "finalize"})
    finalize = claim(engine, "finalize")
    engine.fail(finalize)
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.value("retry_finished", finalize.id, detach=detach)
    assert raised.value.sqlstate == "QD005"
    assert engine.dump() == before


def test_a_step_of_a_sequence_that_went_on_is_not_redriven_into_it(engine: Engine) -> None:
    parent = engine.start("parent")
    (first,) = engine.spawn(parent, ["first", "second"], sequential=True)
    engine.complete(claim(engine, "first"))
    with pytest.raises(psycopg.Error) as raised:
        engine.value("retry_finished", first)
    assert raised.value.sqlstate == "QD005"


def test_the_former_outcome_of_a_redriven_execution_is_kept(engine: Engine) -> None:
    lease = engine.start()
    engine.complete(lease, {"first": 1})
    engine.value("retry_finished", lease.id)
    engine.complete(engine.claim_one(lease.id), {"second": 2})
    assert engine.get(lease.id)["output"] == {"second": 2}
    (former,) = engine.rows("attempts", lease.id)
    assert (former["status"], former["output"]) == ("completed", {"first": 1})


def test_a_redriven_execution_has_its_attempts_and_crashes_anew(engine: Engine) -> None:
    lease = engine.start(max_attempts=2, retry_delay=timedelta(0))
    engine.fail(lease)
    engine.fail(engine.claim_one(lease.id))
    engine.value("retry_finished", lease.id)
    third = engine.claim_one(lease.id)
    assert third.attempt == 1
    engine.fail(third)
    assert engine.claim_one(lease.id).attempt == 2
    assert [row["status"] for row in engine.rows("attempts", lease.id)] == ["failed"] * 3


def test_a_redrive_is_refused_while_its_tree_is_still_being_told(engine: Engine) -> None:
    engine.run("update perdure.config set cancel_limit = 1")
    root = engine.start("root")
    engine.spawn(root, ["child"] * 3)
    engine.value("cancel", root.id)
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.value("retry_finished", root.id)
    assert raised.value.sqlstate == "QD012"
    assert engine.dump() == before
    engine.close_all()
    assert engine.value("retry_finished", root.id) == root.id


def test_a_redrive_takes_its_key_again_or_is_refused(engine: Engine) -> None:
    first = engine.start(key="k")
    engine.complete(first)
    second = engine.start(key="k")
    with pytest.raises(psycopg.Error) as raised:
        engine.value("retry_finished", first.id)
    assert raised.value.sqlstate == "QD003"
    engine.complete(second)
    engine.value("retry_finished", first.id)
    assert engine.enqueue(key="k") == first.id


def test_a_redriven_sleeper_sleeps_again(engine: Engine) -> None:
    id = engine.enqueue("nap", sleeping=True, key="k", timeout=timedelta(hours=1))  # noqa: A001
    engine.rows("wake", "nap", "k", Jsonb(1))
    engine.advance(7200)
    engine.value("retry_finished", id)
    assert engine.status(id) == "sleeping"
    assert engine.value("expire_deadlines") == 0
    engine.advance(3601)
    assert engine.value("expire_deadlines") == 1
    assert engine.status(id) == "timed_out"


# Again --------------------------------------------------------------------------------------------


def test_again_runs_the_same_execution_with_new_input_after_a_delay(engine: Engine) -> None:
    engine.stop_clock()
    lease = engine.start(input={"n": 0}, max_attempts=2, retry_delay=timedelta(0))
    assert engine.report(lease, "again", input={"n": 1}, delay=30).result == "recorded"
    assert engine.claim() == []
    assert engine.row("exchange", engine.worker)["wait_ms"] == 30_000
    engine.advance(30)
    second = engine.claim_one(lease.id)
    assert (second.attempt, second.input, second.extra["iteration"]) == (1, {"n": 1}, 1)
    engine.fail(second)
    third = engine.claim_one(lease.id)
    assert (third.attempt, third.input) == (2, {"n": 1}), "a retry keeps the iteration's input"
    engine.report(third, "again")
    fourth = engine.claim_one(lease.id)
    assert (fourth.attempt, fourth.input, fourth.extra["iteration"]) == (1, {"n": 1}, 2)
    engine.complete(fourth)
    row = engine.get(lease.id)
    assert (row["status"], row["iteration"], row["attempt"]) == ("completed", 2, 1)


def test_again_uses_no_attempt_however_often(engine: Engine) -> None:
    lease = engine.start(max_attempts=1)
    for _ in range(50):
        engine.report(lease, "again")
        lease = engine.claim_one(lease.id)
    engine.complete(lease)
    assert engine.one("select count(*) from perdure.execution") == 1
    assert engine.rows("attempts", lease.id) == []


def test_again_with_a_null_input_takes_null(engine: Engine) -> None:
    lease = engine.start(input=5)
    engine.report(lease, "again", input=None)
    assert engine.claim_one(lease.id).input is None


def test_a_child_that_runs_again_keeps_its_parent_waiting(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["poll"])
    engine.report(claim(engine, "poll"), "again")
    assert engine.status(parent.id) == "waiting_for_children"
    engine.complete(claim(engine, "poll"))
    assert engine.status(parent.id) == "completed"


def test_a_parent_may_run_again_before_it_spawns(engine: Engine) -> None:
    lease = engine.start("parent")
    engine.report(lease, "again", input=1)
    engine.spawn(engine.claim_one(lease.id), ["child"], output=2)
    drain(engine)
    row: Row = engine.get(lease.id)
    assert (row["status"], row["iteration"], row["output"]) == ("completed", 1, 2)
