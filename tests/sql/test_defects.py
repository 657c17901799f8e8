"""The defects 8.1 to 8.18 of the engine that Perdure follows: none of them is here.

Each is shown in SQL as far as it can be. What concerns the client as well is tested there too:
8.3 (a result that cannot be stored), 8.9 (workers know their tasks), 8.10 (which of the client's
errors are retryable), 8.14 (lost replies), 8.15 (bodies that ignore their timeout) in tests/worker
and tests/client; 8.5 (deadlocks) with concurrent sessions in tests/sql/rules (rules 4 and 5).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fix_engine import Engine, Lease, outcome_of


def claim(engine: Engine, task: str) -> Lease:
    (lease,) = engine.claim(tasks=[task])
    return lease


def test_defect_8_01_large_children_do_not_block_their_parent_or_its_batch(
    engine: Engine,
) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["big", "big"], finalize={"task": "finalize"})
    mates = [engine.start(f"mate_{n}") for n in range(5)]
    big = "x" * 900_000  # each within the limit, together beyond it
    results = engine.finish(
        *(outcome_of(one, "completed", output=big) for one in engine.claim(2, tasks=["big"])),
        *(outcome_of(one, "completed") for one in mates),
    )
    assert {one.result for one in results} == {"recorded"}
    assert engine.status(parent.id) == "waiting_for_finalize"
    engine.complete(claim(engine, "finalize"))
    assert engine.status(parent.id) == "completed"


def test_defect_8_01_a_parent_that_cannot_go_on_ends_alone(engine: Engine) -> None:
    parents = [engine.start(f"parent_{n}") for n in range(3)]
    for parent in parents:
        step = "nap" if parent is parents[1] else "next"
        engine.spawn(parent, ["first", {"task": step, "sleeping": step == "nap"}], sequential=True)
    # a sleeping step needs a string for its key, and gets a number
    results = engine.finish(
        *(outcome_of(one, "completed", output=7) for one in engine.claim(3, tasks=["first"]))
    )
    assert {one.result for one in results} == {"recorded"}
    assert engine.statuses([parent.id for parent in parents]) == [
        "waiting_for_children",
        "failed",
        "waiting_for_children",
    ]


def test_defect_8_02_a_late_result_of_a_former_lease_changes_nothing(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    stale = engine.start(max_attempts=2, retry_delay=timedelta(0))
    engine.advance(301)
    engine.value("expire_running")
    other = Engine(connect())
    held = other.claim_one(stale.id)
    assert engine.report(stale, "completed", output="stale").code == "QD008"
    other.complete(held, "held")
    assert engine.get(held.id)["output"] == "held"


def test_defect_8_02_a_step_of_a_sequence_is_never_begun_twice(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["first", "second"], sequential=True)
    first = claim(engine, "first")
    engine.complete(first)
    assert engine.report(first, "completed").result == "already"
    with pytest.raises(psycopg.Error):
        engine.value("process_children_finished", parent.id)
    assert engine.one("select count(*) from perdure.execution where task = 'second'") == 1


def test_defect_8_03_a_result_that_cannot_be_stored_ends_its_own_attempt_only(
    engine: Engine,
) -> None:
    lease = engine.start(max_attempts=5)
    assert engine.report(lease, "completed", output="x" * (1 << 20)).result == "failed"
    assert (engine.status(lease.id), engine.rows("attempts", lease.id)) == ("failed", [])
    # a second report of the same lease, as after a lost reply, finds it recorded
    assert engine.report(lease, "failed").result == "already"


def test_defect_8_04_the_readme_s_retry_example_runs_six_times(engine: Engine) -> None:
    id = engine.enqueue(  # noqa: A001
        max_attempts=6,
        retry_delay=timedelta(milliseconds=100),
        retry_multiplier=1.5,
        retry_max_delay=timedelta(seconds=1),
    )
    runs = 0
    while engine.status(id) == "ready":
        engine.fail(engine.claim_one(id))
        runs += 1
        engine.advance(2)
    assert (runs, engine.status(id)) == (6, "failed")


def test_defect_8_04_fractions_of_milliseconds_are_no_error(engine: Engine) -> None:
    (row,) = engine.rows(
        "enqueue_many",
        [{"task": "t", "delay": 0.0123456, "timeout": 1.0004, "retry_delay": 0.0015}],
    )
    assert row["code"] is None
    assert engine.get(row["id"])["timeout"] == timedelta(seconds=1)


def test_defect_8_05_interleaved_parents_in_two_batches_all_end(engine: Engine) -> None:
    # The same pairs at the same time: tests/sql/rules.
    parents = [engine.start(f"parent_{n}") for n in range(2)]
    for parent in parents:
        engine.spawn(parent, ["child"] * 2)
    children = {lease.id: lease for lease in engine.claim(4, tasks=["child"])}
    rows = [engine.rows("children", parent.id) for parent in parents]
    for n in range(2):
        batch = [children[rows[n][0]["id"]], children[rows[1 - n][1]["id"]]]
        engine.finish(*(outcome_of(one, "completed") for one in batch))
    assert engine.statuses([parent.id for parent in parents]) == ["completed"] * 2


def test_defect_8_06_no_counter_goes_below_zero(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["child"], finalize={"task": "finalize"})
    engine.complete(claim(engine, "child"))
    finalize = claim(engine, "finalize")
    engine.spawn(finalize, [], finalize={"task": "second"})
    assert engine.query("select active from perdure.waiting") == [{"active": 1}] * 2
    engine.value("cancel", finalize.id)
    assert engine.status(parent.id) == "finalize_failed"
    assert engine.query("select * from perdure.waiting") == []


def test_defect_8_06_a_counter_that_does_not_match_is_repaired(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["child", "child"])
    engine.run("update perdure.waiting set active = 1")
    first, second = engine.claim(2, tasks=["child"])
    assert [
        one.result
        for one in engine.finish(outcome_of(first, "completed"), outcome_of(second, "completed"))
    ] == ["recorded", "recorded"]
    assert engine.status(parent.id) == "completed"


def test_defect_8_07_every_execution_of_a_tree_knows_its_root(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["a", "b"], sequential=True, finalize={"task": "finalize"})
    engine.complete(claim(engine, "a"))
    engine.spawn(claim(engine, "b"), ["leaf"])
    engine.complete(claim(engine, "leaf"))
    engine.complete(claim(engine, "finalize"))
    roots = engine.query("select distinct root_id from perdure.execution")
    assert roots == [{"root_id": root.id}]


def test_defect_8_08_overdue_attempts_are_counted_and_end(engine: Engine) -> None:
    id = engine.enqueue(max_attempts=3, retry_delay=timedelta(0))  # noqa: A001
    for _ in range(3):
        engine.claim_one(id)
        engine.advance(301)
        engine.value("expire_running")
    assert engine.status(id) == "timed_out"
    assert all(row["error"]["retryable"] for row in engine.rows("attempts", id))


def test_defect_8_09_a_worker_claims_no_task_that_it_does_not_know(engine: Engine) -> None:
    unknown = engine.enqueue("unknown")
    known = engine.enqueue("known")
    worker = engine.value("register_worker", "old release", ["default"], ["known"])
    assert [lease.id for lease in engine.claim(10, worker=worker)] == [known]
    engine.rows("sweep")  # it is set aside, and comes back for a worker that knows it
    assert engine.status(unknown) == "ready"
    assert [lease.id for lease in engine.claim(10)] == [unknown]


def test_defect_8_10_an_error_is_retryable_unless_it_says_otherwise(engine: Engine) -> None:
    lease = engine.start(max_attempts=2, retry_delay=timedelta(0))
    engine.report(lease, "failed", error={"type": "Error", "message": "m"})
    assert engine.claim_one(lease.id).extra["error"]["retryable"] is True


def test_defect_8_11_a_cancel_reaches_every_level_at_once(engine: Engine) -> None:
    lease = engine.start("level")
    ids = [lease.id]
    for _ in range(20):
        engine.spawn(lease, ["level"])
        lease = claim(engine, "level")
        ids.append(lease.id)
    assert engine.value("cancel", ids[0]) == "cancelled"
    assert set(engine.statuses(ids)) == {"cancelled"}
    assert engine.query("select * from perdure.closing") == []
    assert engine.row("exchange", engine.worker, held=[lease.id])["gone"] == [lease.id]


def test_defect_8_12_a_wake_key_is_free_again_after_its_execution_ended(engine: Engine) -> None:
    for n in range(3):
        engine.enqueue("nap", sleeping=True, key="k")
        assert engine.row("wake", "nap", "k", {"n": n})["output"] == {"n": n}


def test_defect_8_12_a_duplicate_key_among_children_says_so_without_sql(engine: Engine) -> None:
    parent = engine.start("parent")
    nap = {"task": "nap", "sleeping": True, "key": "k"}
    result = engine.report(parent, "spawned", children=[nap, nap])
    error = engine.get(parent.id)["error"]
    assert result.code == "QD027"
    assert error["retryable"] is False
    assert error["message"].startswith("child 1 (nap): key k is held by execution")
    assert "insert" not in error["message"]
    assert engine.enqueue("nap", sleeping=True, key="k"), "the key was not taken"


def test_defect_8_13_a_parent_without_children_never_waits_for_them(engine: Engine) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, [], finalize={"task": "finalize"})
    assert engine.status(parent.id) == "waiting_for_finalize"
    assert engine.query("select phase, active from perdure.waiting") == [
        {"phase": "finalize", "active": 1}
    ]


def test_defect_8_14_a_claim_whose_reply_was_lost_is_handed_back(engine: Engine) -> None:
    id = engine.enqueue()  # noqa: A001
    engine.claim_one(id)  # nobody saw this reply
    engine.run("select pg_advisory_unlock_all()")
    assert engine.rows("resume_worker", engine.worker) == []
    lease = engine.claim_one(id)
    assert (lease.attempt, engine.rows("attempts", id)) == (1, [])


def test_defect_8_14_a_report_whose_reply_was_lost_is_found_recorded(engine: Engine) -> None:
    lease = engine.start()
    engine.complete(lease, 1)
    assert engine.report(lease, "completed", output=1).result == "already"
    assert engine.report(lease, "failed").result == "already"
    assert engine.get(lease.id)["output"] == 1


def test_defect_8_15_a_body_that_ignores_its_timeout_cannot_report(engine: Engine) -> None:
    lease = engine.start(max_attempts=2, retry_delay=timedelta(0))
    engine.advance(301)
    engine.value("expire_running")
    second = engine.claim_one(lease.id)
    assert engine.row("exchange", engine.worker, held=[lease.id])["gone"] == [], "held anew"
    assert engine.report(lease, "completed", output="late").result == "lost"
    assert engine.status(second.id) == "running"


def test_defect_8_16_times_are_those_of_the_event_and_the_first_schedule_is_kept(
    engine: Engine,
) -> None:
    created = engine.stop_clock()
    id = engine.enqueue(delay=timedelta(seconds=60), max_attempts=2)  # noqa: A001
    engine.advance(61)
    engine.fail(engine.claim_one(id))
    engine.advance(10)
    lease = engine.claim_one(id)
    engine.advance(5)
    engine.complete(lease)
    row = engine.get(id)
    assert row["created_at"] == created
    assert row["start_at"] == created + timedelta(seconds=60)
    assert row["started_at"] == created + timedelta(seconds=71)
    assert row["finished_at"] == created + timedelta(seconds=76)


def test_defect_8_16_a_parent_ends_when_its_finalize_does(engine: Engine) -> None:
    created = engine.stop_clock()
    parent = engine.start("parent")
    engine.spawn(parent, [], finalize={"task": "finalize"})
    finalize = claim(engine, "finalize")
    engine.advance(7)
    engine.complete(finalize)
    assert engine.get(parent.id)["finished_at"] == created + timedelta(seconds=7)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": -1}, {"max_attempts": 0}, {"delay": -1}]
)
def test_defect_8_17_a_child_s_options_are_validated(
    engine: Engine, options: dict[str, Any]
) -> None:
    parent = engine.start("parent")
    result = engine.report(parent, "spawned", children=[{"task": "child"} | options])
    assert (result.result, result.code) == ("failed", "QD027")


def test_defect_8_18_one_bad_request_does_not_fail_its_batch(engine: Engine) -> None:
    items = [{"task": "nap", "sleeping": True, "key": "k", "input": n} for n in range(2)]
    rows = engine.rows("enqueue_many", [*items, {"task": "good"}, {"task": ""}, {"task": "good"}])
    assert [row["code"] for row in rows] == [None, "QD003", None, "QD020", None]
    assert [lease.task for lease in engine.claim(10)] == ["good", "good"]
