"""Bad input: a code of its own, nothing written, nothing lost; batch mates go on."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Row, outcome_of

# Of enqueue, every field and limit stands in test_enqueue.py.

CALLS: list[tuple[str, str, str]] = [
    ("an empty task name", "select perdure.enqueue('')", "QD020"),
    ("an over-long task name", "select perdure.enqueue(repeat('x', 256))", "QD020"),
    ("a task name with control characters", "select perdure.enqueue(E'a\\x01')", "QD020"),
    ("no task name", "select perdure.enqueue(null)", "QD021"),
    (
        "an input over the limit",
        "select perdure.enqueue('t', to_jsonb(repeat('x', 1048576)))",
        "QD022",
    ),
    ("a negative delay", "select perdure.enqueue('t', delay => '-1 s')", "QD023"),
    ("an absurd delay", "select perdure.enqueue('t', delay => '11 years')", "QD023"),
    ("a negative timeout", "select perdure.enqueue('t', timeout => '-1 s')", "QD023"),
    ("no time at all", "select perdure.enqueue('t', timeout => '0')", "QD023"),
    ("an absurd timeout", "select perdure.enqueue('t', timeout => '31 days')", "QD023"),
    ("no attempts", "select perdure.enqueue('t', max_attempts => 0)", "QD024"),
    ("absurd attempts", "select perdure.enqueue('t', max_attempts => 2147483647)", "QD024"),
    ("a deadline in the past", "select perdure.enqueue('t', deadline => '2001-01-01')", "QD025"),
    ("a priority out of range", "select perdure.enqueue('t', priority => 32768)", "QD026"),
    ("the least priority", "select perdure.enqueue('t', priority => -2147483648)", "QD026"),
    ("jitter that is no number", "select perdure.enqueue('t', retry_jitter => 'NaN')", "QD026"),
    ("no backoff", "select perdure.enqueue('t', retry_backoff => 'quadratic')", "QD026"),
    ("no time for a key", "select perdure.enqueue('t', key_for => 'sometimes')", "QD023"),
    ("a delay of ages", "select perdure.enqueue('t', delay => '178000000 years')", "QD023"),
    ("a timeout of ages", "select perdure.enqueue('t', timeout => '178000000 years')", "QD023"),
    ("a retry before now", "select perdure.enqueue('t', retry_delay => '-1 ms')", "QD023"),
    ("no end of retries", "select perdure.enqueue('t', retry_max_delay => '25 h')", "QD023"),
    ("a start at no time", "select perdure.enqueue('t', run_at => 'infinity')", "QD023"),
    ("a start before time", "select perdure.enqueue('t', run_at => '-infinity')", "QD023"),
    ("a deadline at no time", "select perdure.enqueue('t', deadline => 'infinity')", "QD023"),
    ("a deadline before time", "select perdure.enqueue('t', deadline => '-infinity')", "QD025"),
    ("absurd crashes", "select perdure.enqueue('t', max_crashes => 2147483647)", "QD024"),
    (
        "a multiplier without end",
        "select perdure.enqueue('t', retry_multiplier => 'Infinity')",
        "QD026",
    ),
    ("headers that are none", "select perdure.enqueue('t', headers => '[1]')", "QD021"),
    ("a tag that is none", "select perdure.enqueue('t', tags => '{a,null}')", "QD020"),
    ("a sleeper without a key", "select perdure.enqueue('t', sleeping => true)", "QD026"),
    ("a shard key alone", "select perdure.enqueue('t', shard_key => 'k')", "QD026"),
    ("an empty key", "select perdure.enqueue('t', key => '')", "QD020"),
    ("an empty scope", "select perdure.enqueue('t', key => 'k', key_scope => '')", "QD020"),
    ("an empty queue", "select perdure.enqueue('t', queue => '')", "QD020"),
    (
        "headers over the limit",
        "select perdure.enqueue('t', headers => jsonb_build_object('h', repeat('x', 1048576)))",
        "QD022",
    ),
    ("delay and run_at", "select perdure.enqueue('t', delay => '1 s', run_at => now())", "QD026"),
    ("a wake for an unknown key", "select perdure.wake('t', 'nobody')", "QD002"),
    ("a wake for a null key", "select perdure.wake('t', null)", "QD002"),
    ("a wake of what does not sleep", "select perdure.wake('task', 'key')", "QD004"),
    ("cancel of an unknown id", "select perdure.cancel(404)", "QD001"),
    ("cancel of null", "select perdure.cancel(null)", "QD001"),
    ("retry of an unknown id", "select perdure.retry_finished(404)", "QD001"),
    (
        "retry of a live execution",
        "select perdure.retry_finished(id) from perdure.execution",
        "QD006",
    ),
    (
        "the same key with another input",
        "select perdure.enqueue('task', '1', key => 'key')",
        "QD003",
    ),
    (
        "the same key with another task",
        "select perdure.enqueue('t', key => 'key', key_scope => 'task')",
        "QD003",
    ),
    ("a worker without a name", "select perdure.register_worker('')", "QD020"),
    ("a worker without a queue", "select perdure.register_worker('w', '{}')", "QD020"),
    ("a worker with a bad queue", "select perdure.register_worker('w', array[''])", "QD020"),
    ("a worker with a bad task", "select perdure.register_worker('w', tasks => '{null}')", "QD020"),
]


@pytest.mark.parametrize(("what", "call", "code"), CALLS, ids=[what for what, _, _ in CALLS])
def test_each_has_its_own_code_and_writes_nothing(
    engine: Engine, what: str, call: str, code: str
) -> None:
    engine.enqueue("task", key="key")
    before = engine.dump()
    workers = engine.query("select * from perdure.worker")
    with pytest.raises(psycopg.Error) as raised:
        engine.run(call)
    assert raised.value.sqlstate == code
    assert raised.value.diag.message_primary
    assert engine.dump() == before
    assert engine.query("select * from perdure.worker") == workers


def test_an_error_shows_neither_sql_nor_the_input(engine: Engine) -> None:
    with pytest.raises(psycopg.Error) as raised:
        engine.enqueue("t", {"password": "secret"}, max_attempts=0)
    assert "secret" not in str(raised.value)


def test_a_wake_with_too_large_an_output_changes_nothing(engine: Engine) -> None:
    engine.enqueue("nap", sleeping=True, key="k")
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.rows("wake", "nap", "k", Jsonb("x" * (1 << 20)))
    assert raised.value.sqlstate == "QD022"
    assert engine.dump() == before


def test_a_claim_of_what_was_not_registered_is_refused(engine: Engine) -> None:
    worker = engine.value("register_worker", "narrow", ["a"], ["one"])
    before = engine.dump()
    for narrowed in ({"queues": ["b"]}, {"tasks": ["two"]}, {"queues": ["a", None]}):
        with pytest.raises(psycopg.Error) as raised:
            engine.claim(worker=worker, **narrowed)
        assert raised.value.sqlstate == "QD026"
    assert engine.dump() == before


# Reports: each outcome is judged alone ------------------------------------------------------------

TOO_LARGE = "x" * (1 << 20)

# what → (fields of the outcome, result, code, type of the stored error)
BAD_OUTCOMES: dict[str, tuple[Row, str, str, str]] = {
    "an output over the limit": (
        {"outcome": "completed", "output": TOO_LARGE},
        "failed",
        "QD022",
        "payload_too_large",
    ),
    "an input for again over the limit": (
        {"outcome": "again", "input": TOO_LARGE},
        "failed",
        "QD022",
        "payload_too_large",
    ),
    "a parent's output over the limit": (
        {"outcome": "spawned", "output": TOO_LARGE, "children": [{"task": "child"}]},
        "failed",
        "QD022",
        "payload_too_large",
    ),
    "an unknown outcome": ({"outcome": "exploded"}, "invalid", "QD028", "invalid_outcome"),
    "no outcome": ({}, "invalid", "QD028", "invalid_outcome"),
    "an outcome that is no name": ({"outcome": 7}, "invalid", "QD028", "invalid_outcome"),
    "a negative delay": (
        {"outcome": "again", "delay": -1},
        "invalid",
        "QD028",
        "invalid_outcome",
    ),
    "a delay that is none": (
        {"outcome": "failed", "delay": "soon"},
        "invalid",
        "QD028",
        "invalid_outcome",
    ),
    "an infinite delay": (
        {"outcome": "failed", "delay": "infinity"},
        "invalid",
        "QD028",
        "invalid_outcome",
    ),
    "children that are no array": (
        {"outcome": "spawned", "children": {"task": "child"}},
        "failed",
        "QD027",
        "invalid_child",
    ),
    "a bad child": (
        {"outcome": "spawned", "children": [{"task": "child"}, {"task": ""}]},
        "failed",
        "QD027",
        "invalid_child",
    ),
    "a bad finalize": (
        {"outcome": "spawned", "children": [{"task": "child"}], "finalize": {"task": ""}},
        "failed",
        "QD027",
        "invalid_child",
    ),
    "a sleeping finalize": (
        {
            "outcome": "spawned",
            "children": [{"task": "child"}],
            "finalize": {"task": "f", "sleeping": True, "key": "k"},
        },
        "failed",
        "QD027",
        "invalid_child",
    ),
}


@pytest.mark.parametrize("what", BAD_OUTCOMES)
def test_an_unacceptable_outcome_ends_its_execution_and_no_other(engine: Engine, what: str) -> None:
    fields, result, code, kind = BAD_OUTCOMES[what]
    # Retries are left, but the same body would say the same again.
    first, bad, last = (engine.start(f"task_{n}", max_attempts=5) for n in range(3))
    results = engine.finish(
        outcome_of(first, "completed", output=1),
        {"id": bad.id, "token": bad.token, **fields},
        outcome_of(last, "completed", output=3),
    )
    assert [one.result for one in results] == ["recorded", result, "recorded"]
    assert results[1].code == code
    assert results[1].message
    assert engine.statuses([first.id, bad.id, last.id]) == ["completed", "failed", "completed"]
    error = engine.get(bad.id)["error"]
    assert (error["type"], error["code"], error["retryable"]) == (kind, code, False)
    assert engine.one("select count(*) from perdure.execution") == 3, "no child was created"


# Outcomes that name no lease.
NO_LEASES: dict[str, Any] = {
    "not an object": 7,
    "null": None,
    "an empty object": {},
    "an id that is no number": {"id": "abc", "token": 1, "outcome": "completed"},
    "an id that is too large": {"id": 10**19, "token": 1, "outcome": "completed"},
    "a negative token": {"id": 1, "token": -1, "outcome": "completed"},
    "a fractional token": {"id": 1, "token": 1.5, "outcome": "completed"},
}


@pytest.mark.parametrize("what", NO_LEASES)
def test_an_outcome_that_names_no_lease_is_invalid_and_its_mates_go_on(
    engine: Engine, what: str
) -> None:
    mate = engine.start()
    results = engine.finish(NO_LEASES[what], outcome_of(mate, "completed"), NO_LEASES[what])
    assert [(one.result, one.code) for one in results] == [
        ("invalid", "QD028"),
        ("recorded", None),
        ("invalid", "QD028"),
    ]
    assert engine.status(mate.id) == "completed"


def test_a_report_for_a_lease_one_does_not_hold_changes_nothing(engine: Engine) -> None:
    lease = engine.start()
    never = engine.enqueue("other")
    before = engine.dump()
    results = engine.finish(
        outcome_of(lease, "completed") | {"token": lease.token + 1},
        {"id": never, "token": 1, "outcome": "completed"},
        {"id": 404, "token": 1, "outcome": "completed"},
    )
    assert [(one.result, one.code) for one in results] == [("lost", "QD008")] * 3
    assert engine.dump() == before


@pytest.mark.parametrize("stale_first", [True, False])
def test_a_stale_lease_beside_the_held_one_of_the_same_execution_is_told_apart(
    engine: Engine, stale_first: bool
) -> None:
    stale = engine.start(max_attempts=2)
    engine.advance(301)
    engine.rows("expire_running")
    engine.advance(3600)
    held = engine.claim_one(stale.id)
    told = [
        (outcome_of(stale, "completed", output="stale"), "lost"),
        (outcome_of(held, "completed", output="held"), "recorded"),
    ]
    if not stale_first:
        told.reverse()
    results = engine.finish(*(outcome for outcome, _ in told))
    assert [one.result for one in results] == [expected for _, expected in told]
    assert engine.get(held.id)["output"] == "held"


def test_a_lease_that_is_named_twice_in_a_batch_ends_once_with_the_last_word(
    engine: Engine,
) -> None:
    lease = engine.start()
    results = engine.finish(
        outcome_of(lease, "completed", output=1), outcome_of(lease, "completed", output=2)
    )
    assert [one.result for one in results] == ["recorded", "recorded"]
    assert engine.get(lease.id)["output"] == 2


@pytest.mark.parametrize("outcomes", [{"id": 1}, "text", 7])
def test_outcomes_are_an_array(engine: Engine, outcomes: Any) -> None:
    assert engine.worker
    before = engine.dump()
    for function in ("finish", "exchange"):
        with pytest.raises(psycopg.Error) as raised:
            engine.rows(function, engine.worker, Jsonb(outcomes))
        assert raised.value.sqlstate == "QD028"
    assert engine.dump() == before


def test_an_enormous_error_is_stored_in_short(engine: Engine) -> None:
    lease = engine.start()
    engine.fail(lease, "m" * (2 << 20), type="t" * 1000, traceback="x" * (2 << 20))
    error = engine.get(lease.id)["error"]
    assert (len(error["message"]), len(error["type"]), error["truncated"]) == (10_000, 255, True)


@pytest.mark.parametrize("given", [None, "just a text", 7, [1], {"message": "m"}, {}])
def test_an_error_of_any_shape_is_stored_in_one_shape(engine: Engine, given: Any) -> None:
    lease = engine.start()
    assert engine.report(lease, "failed", error=given).result == "recorded"
    error = engine.get(lease.id)["error"]
    assert {"type", "message", "retryable"} <= set(error)
    if given == "just a text":
        assert error["message"] == given
