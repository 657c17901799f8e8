"""Rule 17: the cursor only saves work; what commits behind it is found from the beginning."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from fix_engine import Engine
from fix_sessions import Sessions


def test_what_commits_late_is_claimed_from_the_beginning(
    engine: Engine, sessions: Sessions
) -> None:
    producer = sessions.open()
    with producer.conn.transaction():
        late = producer.enqueue("late")
        for _ in range(3):
            engine.enqueue("early")
        first = engine.row("exchange", engine.worker, want=2)
    second = engine.row("exchange", engine.worker, want=2, after=Jsonb(first["next_after"]))
    assert [row[2] for row in second["claimed"]] == ["early"], "it lies behind the cursor"
    assert second["more"], "fewer than wanted: ask again, without it"
    third = engine.row("exchange", engine.worker, want=2)
    assert [row[0] for row in third["claimed"]] == [late]


def test_what_a_claim_took_and_rolled_back_is_claimed_from_the_beginning(
    engine: Engine, sessions: Sessions
) -> None:
    _, second, third = (engine.enqueue() for _ in range(3))
    cursor = Jsonb(engine.row("exchange", engine.worker, want=1)["next_after"])
    other = sessions.open()
    other.conn.execute("begin")
    assert len(other.claim(max=1)) == 1
    other.conn.execute("rollback")
    beyond = engine.row("exchange", engine.worker, want=2, after=cursor)
    assert [row[0] for row in beyond["claimed"]] == [third]
    assert beyond["more"], "fewer than wanted: ask again, without it"
    again = engine.row("exchange", engine.worker, want=2)
    assert [row[0] for row in again["claimed"]] == [second]


def test_what_was_set_aside_and_brought_back_is_claimed_behind_a_cursor_too(
    engine: Engine,
) -> None:
    _, *others = (engine.enqueue() for _ in range(3))
    engine.run("update perdure.ready set is_aside = true")
    assert engine.value("_bring_back", ["default"], None, 10) == 3
    cursor = Jsonb(engine.row("exchange", engine.worker, want=1)["next_after"])
    beyond = engine.row("exchange", engine.worker, want=2, after=cursor)
    assert [row[0] for row in beyond["claimed"]] == others


def test_each_queue_has_a_cursor_of_its_own(engine: Engine, sessions: Sessions) -> None:
    other = sessions.open()
    worker = other.value("register_worker", "two", ["a", "b"])
    for queue in ("a", "b", "b"):
        engine.enqueue(queue=queue)
    after = other.row("exchange", worker, want=2)["next_after"]
    assert set(after) == {"a", "b"}
    engine.enqueue(queue="a")
    rest = other.row("exchange", worker, want=5, after=Jsonb(after))
    assert len(rest["claimed"]) == 2


def test_times_are_those_of_the_call_and_not_of_the_transaction(engine: Engine) -> None:
    with engine.conn.transaction():
        first, second = engine.enqueue(), engine.enqueue()
        began = engine.one("select now()")
        starts = [engine.get(id_)["start_at"] for id_ in (first, second)]
    assert began < starts[0] < starts[1]
