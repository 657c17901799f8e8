"""Everything that time alone causes: each is brought about, and can be seen when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fix_engine import Engine
from fix_sessions import Sessions

IsDone = Callable[[], bool]
Due = Callable[[Engine, Sessions], IsDone]


def no_grace(engine: Engine) -> None:
    """Whoever is lost is given up at once."""
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '0'")


def _soon(engine: Engine) -> Any:
    return engine.one("select perdure._clock() + interval '300 ms'")


def _parent(sessions: Sessions, until: Any = None, **options: Any) -> tuple[int, list[int]]:
    """A parent with three children; its worker has left."""
    session = sessions.open()
    parent = session.start("parent", deadline=until)
    children = session.spawn(parent, [{"task": "child", **options}] * 3, finalize={"task": "sum"})
    session.value("unregister_worker", session.worker)
    return parent.id, children


def lease_of_a_dead_worker(engine: Engine, sessions: Sessions) -> IsDone:
    session = sessions.open()
    id_ = session.start("dies").id
    engine.lose_worker(session.conn)
    back = "select from perdure.ready where id = %s and crashes = 1"
    return lambda: bool(engine.query(back, id_))


def attempt_that_takes_too_long(engine: Engine, sessions: Sessions) -> IsDone:
    lease = sessions.open().start("hangs", timeout="10 ms", max_attempts=1)
    return lambda: engine.status(lease.id) == "timed_out"


def deadline(engine: Engine, sessions: Sessions) -> IsDone:
    id_ = engine.enqueue("late", deadline=_soon(engine))
    return lambda: engine.status(id_) == "timed_out"


def deadline_of_a_tree(engine: Engine, sessions: Sessions) -> IsDone:
    parent, children = _parent(sessions, _soon(engine))
    # a child has its parent's deadline, and may meet it first
    ends = [["timed_out"] * 4, ["timed_out", *["cancelled"] * 3]]
    return lambda: engine.statuses([parent, *children]) in ends


def time_out_of_a_sleeper(engine: Engine, sessions: Sessions) -> IsDone:
    id_ = engine.enqueue("asleep", sleeping=True, key="k", timeout="100 ms")
    return lambda: engine.status(id_) == "timed_out"


def children_that_ended_untold(engine: Engine, sessions: Sessions) -> IsDone:
    """Their parent's row was locked when they ended, so their tellings are left in closing."""
    parent, children = _parent(sessions, deadline=0.001)
    holder = sessions.open()
    with holder.conn.transaction():
        holder.run("select from perdure.waiting where id = %s for update", parent)
        while "ready" in engine.statuses(children):
            engine.value("expire_deadlines")
    assert engine.status(parent) == "waiting_for_children"
    return lambda: engine.status(parent) == "waiting_for_finalize"


def cancel_that_was_too_large(engine: Engine, sessions: Sessions) -> IsDone:
    parent, children = _parent(sessions)
    engine.run("update perdure.config set cancel_limit = 1")
    engine.value("cancel", parent)
    engine.run("update perdure.config set cancel_limit = 10000")
    assert "ready" in engine.statuses(children)
    return lambda: engine.statuses([parent, *children]) == ["cancelled"] * 4


def delayed_execution(engine: Engine, sessions: Sessions) -> IsDone:
    id_ = engine.enqueue("later", delay="100 ms")
    return lambda: bool(engine.query("select from perdure.ready where id = %s", id_))


def key_kept_for_a_while(engine: Engine, sessions: Sessions) -> IsDone:
    id_ = engine.enqueue("keyed", key="once", key_for="50 ms")
    engine.value("cancel", id_)
    return lambda: not engine.query("select from perdure.key where id = %s", id_)


def old_history(engine: Engine, sessions: Sessions) -> IsDone:
    parent, children = _parent(sessions)
    ids = [parent, *children, engine.enqueue("old")]
    for id_ in ids:
        engine.value("cancel", id_)
    for table, column in (("finished", "finished_at"), ("execution", "created_at")):
        engine.run(
            f"update perdure.{table} set {column} = {column} - interval '1 year'"
            " where id = any(%s)",
            ids,
        )
    engine.run("update perdure.config set retention = '30 days'")
    return lambda: not engine.query("select from perdure.execution where id = any(%s)", ids)


# History first: it has the lower ids.
DUE: tuple[Due, ...] = (
    *(old_history, children_that_ended_untold, lease_of_a_dead_worker),
    *(attempt_that_takes_too_long, deadline, deadline_of_a_tree, time_out_of_a_sleeper),
    *(cancel_that_was_too_large, delayed_execution, key_kept_for_a_while),
)
