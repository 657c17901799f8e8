"""Rule 9: a bad item is told so and ends alone; a claim stops at a budget of bytes."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, outcome_of

_BAD = {
    "a child without a task": ("spawned", {"children": [{"task": "ok"}, {}]}, "failed", "QD027"),
    "children that are no list": ("spawned", {"children": 7}, "failed", "QD027"),
    "a child that is no object": ("spawned", {"children": [[]]}, "failed", "QD027"),
    "a bad finalize": ("spawned", {"finalize": {"task": ""}}, "failed", "QD027"),
    "an unknown kind": ("sparkled", {}, "invalid", "QD028"),
    "a delay that is none": ("failed", {"delay": "soon"}, "invalid", "QD028"),
    "a delay for ever": ("again", {"delay": 1e300}, "invalid", "QD028"),
    "an output too large": ("completed", {"output": "x" * 2_000_000}, "failed", "QD022"),
    "a next input too large": ("again", {"input": "x" * 2_000_000}, "failed", "QD022"),
}


@pytest.mark.parametrize(("kind", "fields", "result", "code"), _BAD.values(), ids=_BAD)
def test_a_bad_outcome_ends_its_execution_and_not_its_mates(
    engine: Engine, kind: str, fields: dict[str, object], result: str, code: str
) -> None:
    before, bad, after = (engine.start(f"task {n}") for n in range(3))
    results = engine.finish(
        outcome_of(before, "completed", output=1),
        outcome_of(bad, kind, **fields),
        outcome_of(after, "completed", output=2),
    )
    assert [(one.result, one.code) for one in results] == [
        ("recorded", None),
        (result, code),
        ("recorded", None),
    ]
    assert engine.statuses([before.id, bad.id, after.id]) == ["completed", "failed", "completed"]
    assert engine.get(bad.id)["error"]["code"] == code
    assert engine.one("select count(*) from perdure.execution") == 3, "no child was left"


def test_a_bad_item_is_told_so_and_its_mates_are_enqueued(engine: Engine) -> None:
    rows = engine.rows("enqueue_many", Jsonb([{"task": "a"}, {"task": ""}, 7, {"task": "b"}]))
    assert [row["code"] for row in rows] == [None, "QD020", "QD021", None]
    assert engine.one("select count(*) from perdure.ready") == 2


def test_a_claim_stops_at_its_budget_of_bytes_and_says_that_there_is_more(engine: Engine) -> None:
    engine.run("update perdure.config set claim_bytes = 25000")
    for n in range(5):
        engine.enqueue(input={"n": n, "load": [i * 7919 + n for i in range(1000)]})
    sizes = []
    while True:
        row = engine.row("exchange", engine.worker, want=5)
        if not row["claimed"]:
            break
        sizes.append(len(row["claimed"]))
        assert row["more"] == (sum(sizes) < 5)
    assert sum(sizes) == 5
    assert max(sizes) < 5


def test_a_claim_returns_at_least_one_execution_however_large(engine: Engine) -> None:
    engine.run("update perdure.config set claim_bytes = 1")
    ids = [engine.enqueue(input="x" * 100) for _ in range(3)]
    assert [[lease.id for lease in engine.claim(3)] for _ in ids] == [[id_] for id_ in ids]
