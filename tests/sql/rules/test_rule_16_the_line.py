"""Rule 16: in the line stands only what may start now and what a live worker can run."""

from __future__ import annotations

from fix_engine import Engine
from fix_sessions import Sessions


def test_what_is_due_later_stands_apart_and_comes_when_it_is_due(engine: Engine) -> None:
    later = engine.enqueue(delay="1 hour")
    assert engine.room(later) == "scheduled"
    assert engine.claim() == []
    engine.run("update perdure.scheduled set start_at = now()")
    assert [lease.id for lease in engine.claim()] == [later]


def test_tasks_that_no_worker_of_the_queue_knows_are_set_aside_and_come_back(
    engine: Engine, sessions: Sessions
) -> None:
    knowing = sessions.open()
    worker = knowing.value("register_worker", "knowing", ["default"], ["known"])
    foreign, known = engine.enqueue("foreign"), engine.enqueue("known")
    elsewhere = engine.enqueue("foreign", queue="elsewhere")
    assert engine.row("sweep")["moved"] == 1
    aside = engine.query("select id from perdure.ready where is_aside")
    assert aside == [{"id": foreign}], "a queue without a worker is left alone"
    assert engine.statuses([foreign, known, elsewhere]) == ["ready"] * 3
    assert [lease.id for lease in knowing.claim(5, worker)] == [known]

    expert = sessions.open()
    other = expert.value("register_worker", "expert", ["default"], ["foreign"])
    assert [lease.id for lease in expert.claim(5, other)] == [foreign]


def test_what_was_set_aside_can_be_cancelled(engine: Engine, sessions: Sessions) -> None:
    sessions.open().value("register_worker", "knowing", ["default"], ["known"])
    foreign = engine.enqueue("foreign")
    engine.row("sweep")
    assert engine.value("cancel", foreign) == "cancelled"


def test_a_worker_for_every_task_brings_everything_back(engine: Engine, sessions: Sessions) -> None:
    sessions.open().value("register_worker", "knowing", ["default"], ["known"])
    foreign = engine.enqueue("foreign")
    engine.row("sweep")
    assert [lease.id for lease in engine.claim()] == [foreign]


def test_a_sweep_looks_at_so_many_rows_of_the_line_only(engine: Engine, sessions: Sessions) -> None:
    """What stands behind its bound waits for the next sweep."""
    sessions.open().value("register_worker", "knowing", ["default"], ["known"])
    engine.rows("enqueue_many", [{"task": ("known", "foreign")[n % 2]} for n in range(60)])
    assert engine.row("sweep", max=2)["moved"] == 10, "of its twenty"


def test_queues_are_served_in_the_order_given(engine: Engine, sessions: Sessions) -> None:
    other = sessions.open()
    worker = other.value("register_worker", "two", ["b", "a"])
    ids = {queue: engine.enqueue(queue=queue, priority=p) for queue, p in (("a", -5), ("b", 5))}
    assert [lease.id for lease in other.claim(2, worker)] == [ids["b"], ids["a"]]
    ids = {queue: engine.enqueue(queue=queue) for queue in ("b", "a")}
    assert [lease.id for lease in other.claim(1, worker, queues=["a", "b"])] == [ids["a"]]
