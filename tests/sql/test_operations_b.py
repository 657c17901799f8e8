"""The storage operations B1 to B15 of the conformance suite, restated for our functions.

Where an operation has no counterpart (a claim on "processing children" or on "closing" that may
expire), the test proves why none is needed: the step is one transaction, which a crash undoes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from fix_engine import Engine, outcome_of


def test_b01_enqueue_many_stores_every_field_and_defaults_and_refuses_duplicates(
    engine: Engine,
) -> None:
    now = engine.stop_clock()
    first, second, third = engine.rows(
        "enqueue_many",
        [
            {"task": "plain"},
            {"task": "nap", "sleeping": True, "key": "u", "input": {"a": 1}, "timeout": 60},
            {"task": "nap", "sleeping": True, "key": "u", "input": {"a": 2}},
        ],
    )
    plain, nap = engine.get(first["id"]), engine.get(second["id"])
    assert third["code"] == "QD003"
    for row in (plain, nap):
        assert row["created_at"] == row["start_at"] == now
        assert (row["parent_id"], row["root_id"]) == (None, row["id"])
        empty = ("output", "error", "worker_id", "finished_at", "deadline_at", "tags", "headers")
        assert [row[name] for name in empty] == [None] * len(empty)
        assert (row["attempt"], row["crashes"], row["iteration"]) == (0, 0, 0)
    assert (plain["status"], plain["input"], plain["key"]) == ("ready", {}, None)
    assert (nap["status"], nap["input"], nap["key"]) == ("sleeping", {"a": 1}, "u")
    assert nap["expires_at"] == now + timedelta(seconds=60)


def test_b02_get_execution_and_the_view_find_by_id_and_status(engine: Engine) -> None:
    ready, running = engine.enqueue("ready"), engine.start("running").id
    found = "select id from perdure.executions where id = any(%s) and status = any(%s) order by id"
    both = [ready, running]
    assert [row["id"] for row in engine.query(found, both, ["ready", "running"])] == both
    assert [row["id"] for row in engine.query(found, both, ["running"])] == [running]
    assert engine.query(found, [ready], ["completed"]) == []
    with pytest.raises(psycopg.Error) as raised:
        engine.get(404)
    assert raised.value.sqlstate == "QD001"


def test_b03_a_sleeper_is_found_by_its_key(engine: Engine) -> None:
    ids = [engine.enqueue("nap", sleeping=True, key=f"u{n}") for n in (1, 2)]
    found = "select id from perdure.executions where key = any(%s) order by id"
    assert [row["id"] for row in engine.query(found, ["u1", "u2", "u3"])] == ids
    with pytest.raises(psycopg.Error) as raised:
        engine.rows("wake", "nap", "u3")
    assert raised.value.sqlstate == "QD002"


def test_b04_finish_changes_those_whose_lease_is_held_and_no_other(engine: Engine) -> None:
    one, two = engine.start("one"), engine.start("two")
    other = engine.enqueue("three")
    results = engine.finish(
        outcome_of(one, "completed", output=1),
        outcome_of(two, "failed", error={"message": "no"}),
        {"id": other, "token": 1, "outcome": "completed"},
    )
    assert [result.result for result in results] == ["recorded", "recorded", "lost"]
    assert engine.statuses([one.id, two.id, other]) == ["completed", "failed", "ready"]
    row = engine.get(one.id)
    assert (row["output"], row["error"], row["expires_at"]) == (1, None, None)


def test_b05_children_are_inserted_if_and_only_if_the_parent_moves(engine: Engine) -> None:
    parents = [engine.start(f"parent_{n}") for n in range(2)]
    stale = engine.start("stale")
    engine.value("cancel", stale.id)
    results = engine.finish(
        *(outcome_of(one, "spawned", children=[{"task": "a"}, {"task": "b"}]) for one in parents),
        outcome_of(stale, "spawned", children=[{"task": "a"}]),
    )
    assert [result.result for result in results] == ["recorded", "recorded", "cancelled"]
    for parent in parents:
        children = engine.rows("children", parent.id)
        assert [(row["position"], row["task"]) for row in children] == [(0, "a"), (1, "b")]
        assert engine.get(children[0]["id"])["parent_id"] == parent.id
    assert engine.rows("children", stale.id) == []


def test_b06_claim_takes_what_is_due_in_order_up_to_its_limit(engine: Engine) -> None:
    now = engine.stop_clock()
    due_now = engine.enqueue("due_now", timeout=timedelta(minutes=1))
    future = engine.enqueue("future", delay=timedelta(hours=1))
    past = engine.enqueue("past", run_at=now - timedelta(hours=1))
    running = engine.start("running")
    ended = engine.start("ended")
    engine.complete(ended)
    later = engine.enqueue("later")
    leases = engine.claim(2, tasks=["past", "due_now", "later", "future"])
    assert [lease.id for lease in leases] == [past, due_now]
    row = engine.get(due_now)
    assert (row["status"], row["expires_at"]) == ("running", now + timedelta(minutes=1))
    assert row["worker_id"] == engine.get(running.id)["worker_id"]
    assert engine.statuses([future, running.id, ended.id, later]) == [
        "ready",
        "running",
        "completed",
        "ready",
    ]
    engine.claim_one(later)
    assert engine.claim(10) == []


def test_b06_claims_go_by_queue_then_priority_then_start_then_id(engine: Engine) -> None:
    now = engine.stop_clock()
    worker = engine.value("register_worker", "w", ["high", "low"])
    expected = [
        engine.enqueue(queue="high", priority=9),
        engine.enqueue(queue="low", priority=-1, run_at=now - timedelta(hours=1)),
        engine.enqueue(queue="low", priority=-1),
        engine.enqueue(queue="low", run_at=now - timedelta(hours=2)),
        engine.enqueue(queue="low"),
        engine.enqueue(queue="low"),
    ]
    engine.enqueue(queue="elsewhere")
    assert [lease.id for lease in engine.claim(10, worker=worker)] == expected


def test_b07_only_a_parent_whose_children_have_all_ended_is_moved_on(engine: Engine) -> None:
    waiting, done = engine.start("waiting"), engine.start("done")
    engine.spawn(waiting, ["slow", "quick"])
    engine.spawn(done, ["only"])
    for task in ("quick", "only"):
        (lease,) = engine.claim(tasks=[task])
        engine.complete(lease)
    assert engine.statuses([waiting.id, done.id]) == ["waiting_for_children", "completed"]
    before = engine.dump()
    for id in (waiting.id, done.id):  # noqa: A001
        with pytest.raises(psycopg.Error) as raised:
            engine.value("process_children_finished", id)
        assert raised.value.sqlstate == "QD011"
    assert engine.dump() == before


def owing(engine: Engine, amount: int) -> list[int]:
    """Cancelled roots whose one child lives on in the debts of `closing`."""
    engine.run("update perdure.config set cancel_limit = 1")
    children = []
    for n in range(amount):
        root = engine.start(f"root_{n}")
        _, child = engine.spawn(root, ["first", "second"])
        children.append(child)
        engine.value("cancel", root.id)
    engine.run("update perdure.config set cancel_limit = 10000")
    return children


def test_b08_close_batch_takes_the_oldest_debts_up_to_its_limit(engine: Engine) -> None:
    children = owing(engine, 3)
    assert engine.value("close_batch", 2) == 2
    assert engine.statuses(children) == ["cancelled", "cancelled", "ready"]
    assert engine.value("close_batch", 2) == 1
    assert engine.value("close_batch", 2) == 0


def test_b09_what_expired_first_is_taken_first_and_the_rest_is_left(engine: Engine) -> None:
    leases = [
        engine.start(f"task_{n}", timeout=timedelta(seconds=seconds), max_attempts=2)
        for n, seconds in enumerate((30, 10, 20, 7200))
    ]
    nap = engine.enqueue("nap", sleeping=True, key="k", timeout=timedelta(seconds=5))
    ended = engine.start("ended", timeout=timedelta(seconds=1))
    engine.complete(ended)
    engine.advance(60)
    assert engine.value("expire_running", 2) == 2
    statuses = engine.statuses([lease.id for lease in leases])
    assert statuses == ["running", "ready", "ready", "running"]
    assert engine.rows("attempts", leases[1].id)[0]["error"]["type"] == "timed_out"
    assert engine.status(nap) == "sleeping"
    assert engine.value("expire_deadlines") == 1
    row = engine.get(nap)
    assert (row["status"], row["error"]["type"]) == ("timed_out", "timed_out")
    assert engine.status(ended.id) == "completed"


def test_b10_a_crash_while_a_parent_is_told_leaves_nothing_half_done(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    parent = engine.start("parent")
    engine.spawn(parent, ["child"], finalize={"task": "finalize"})
    (child,) = engine.claim(tasks=["child"])
    before = engine.dump()
    other = Engine(connect(autocommit=False))
    other.finish(outcome_of(child, "completed"), worker=engine.worker)
    assert other.status(parent.id) == "waiting_for_finalize"
    engine.lose_worker(other.conn)
    assert engine.dump() == before
    engine.complete(child)
    assert engine.status(parent.id) == "waiting_for_finalize"


def test_b11_a_crash_while_debts_are_paid_leaves_them_owed(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    (child,) = owing(engine, 1)
    before = engine.dump()
    other = Engine(connect(autocommit=False))
    assert other.value("close_batch") == 1
    assert other.status(child) == "cancelled"
    engine.lose_worker(other.conn)
    assert engine.dump() == before
    engine.close_all()
    assert engine.status(child) == "cancelled"


def test_b12_a_worker_is_told_which_of_its_own_leases_are_gone(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    mine = [engine.start(f"mine_{n}") for n in range(3)]
    other = Engine(connect())
    theirs = other.start("theirs")
    for id in (mine[0].id, mine[2].id, theirs.id):  # noqa: A001
        engine.value("cancel", id)
    held = [lease.id for lease in mine]
    gone = engine.row("exchange", engine.worker, held=held)["gone"]
    assert sorted(gone) == [mine[0].id, mine[2].id]
    assert other.row("exchange", other.worker, held=[theirs.id])["gone"] == [theirs.id]
    assert engine.row("exchange", engine.worker, held=[mine[1].id])["gone"] == []


def test_b13_children_and_finalize_are_found_by_their_parent(engine: Engine) -> None:
    parent = engine.start("parent")
    ids = engine.spawn(parent, ["a", "b"], finalize={"task": "finalize"})
    for lease in engine.claim(2):
        engine.complete(lease)
    (finalize,) = engine.claim()
    assert [row["id"] for row in engine.rows("children", parent.id)] == ids
    tree = [
        (row["id"], row["position"], row["is_finalize"]) for row in engine.rows("tree", parent.id)
    ]
    assert tree == [
        (parent.id, None, False),
        (ids[0], 0, False),
        (ids[1], 1, False),
        (finalize.id, None, True),
    ]
    assert engine.rows("children", 404) == []
    assert engine.rows("children", ids[0]) == []


def test_b14_ending_a_parent_cancels_its_unfinished_children_and_no_finished_one(
    engine: Engine,
) -> None:
    parent = engine.start("parent")
    ids = engine.spawn(parent, ["ended", "ready", "running"])
    for task in ("ended", "running"):
        (lease,) = engine.claim(tasks=[task])
        if task == "ended":
            engine.complete(lease, "kept")
    engine.value("cancel", parent.id)
    assert engine.statuses(ids) == ["completed", "cancelled", "cancelled"]
    assert engine.get(ids[0])["output"] == "kept"
    for id in ids[1:]:  # noqa: A001
        assert engine.get(id)["error"]["type"] == "cancelled"


def test_b15_parents_are_decremented_by_their_ended_children_and_once_each(
    engine: Engine,
) -> None:
    first, second = engine.start("first"), engine.start("second")
    engine.spawn(first, ["child"] * 3)
    engine.spawn(second, ["child"] * 2)

    def active() -> list[int]:
        rows = engine.query("select active from perdure.waiting order by id")
        return [row["active"] for row in rows]

    leases = {lease.id: lease for lease in engine.claim(5, tasks=["child"])}
    of_first = [leases[row["id"]] for row in engine.rows("children", first.id)]
    of_second = [leases[row["id"]] for row in engine.rows("children", second.id)]
    engine.finish(outcome_of(of_first[0], "completed"), outcome_of(of_second[0], "failed"))
    assert active() == [2, 1]
    again = engine.finish(outcome_of(of_first[0], "completed"), outcome_of(of_second[0], "failed"))
    assert [result.result for result in again] == ["already", "already"]
    assert active() == [2, 1], "a repeated report is not counted again"
    engine.complete(of_second[1])
    assert active() == [2]
    assert engine.status(second.id) == "completed"
    assert engine.value("decrement_parents", [second.id], [1], [1], [0]) == 0
