"""Every transition from every status moves the execution, or refuses and changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from fix_engine import Engine, Lease, Row, outcome_of
from perdure import errors

HOUR = 3600.0
ITEM: Row = {"timeout": 300, "deadline": 24 * HOUR}


@dataclass(slots=True)
class Subject:
    """An execution in the status to be tested, with the last lease that it had (or never had)."""

    id: int
    key: str
    task: str
    lease: Lease


class Maker:
    """Puts executions into every status, through public functions only."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._numbers = itertools.count(1)

    def make(self, status: str, *, as_child: bool = False) -> Subject:
        number = next(self._numbers)
        task, key = f"subject_{number}", f"key_{number}"
        item = ITEM | {"task": task, "key": key}
        if status in ("sleeping", "woken"):
            item |= {"sleeping": True, "timeout": 2 * HOUR}
        if status == "scheduled":
            item |= {"delay": HOUR}
        if as_child:
            root = self.engine.start(f"root_{number}")
            _, id = self.engine.spawn(root, ["elder", item])  # noqa: A001
        else:
            (row,) = self.engine.rows("enqueue_many", [item])
            id = row["id"]  # noqa: A001
        subject = Subject(id, key, task, Lease(id, 1))
        if status == "woken":
            self.engine.rows("wake", task, key)
        elif status not in ("scheduled", "ready", "sleeping"):
            subject.lease = self.engine.claim_one(id)
            self._lead_on(subject.lease, status)
        shown = {"scheduled": "ready", "woken": "completed"}.get(status, status)
        assert self.engine.status(id) == shown
        return subject

    def _lead_on(self, lease: Lease, status: str) -> None:
        child = f"child_of_{lease.task}"
        if status in ("completed", "failed", "timed_out"):
            assert self.engine.report(lease, status).result == "recorded"
        elif status == "cancelled":
            assert self.engine.value("cancel", lease.id) == "cancelled"
        elif status == "waiting_for_children":
            self.engine.spawn(lease, [child], finalize={"task": f"finalize_of_{lease.task}"})
        elif status in ("waiting_for_finalize", "finalize_failed"):
            finalize = f"finalize_of_{lease.task}"
            self.engine.spawn(lease, [child], finalize={"task": finalize})
            (begun,) = self.engine.claim(tasks=[child])
            self.engine.complete(begun)
            if status == "finalize_failed":
                (begun,) = self.engine.claim(tasks=[finalize])
                self.engine.fail(begun)


LIVE = (
    "scheduled",
    "ready",
    "running",
    "sleeping",
    "waiting_for_children",
    "waiting_for_finalize",
)
ENDED = ("completed", "failed", "timed_out", "finalize_failed", "cancelled", "woken")
STATUSES = LIVE + ENDED

Move = Callable[[Engine, Subject], Any]
Cells = dict[str, tuple[Any, str | None]]


def _same(answer: Any) -> Cells:
    return dict.fromkeys(STATUSES, (answer, None))


# Not held: never was, was recorded, or was taken away by a cancel.
NOT_HELD: Cells = {
    **dict.fromkeys(("scheduled", "ready", "sleeping", "woken"), ("lost", None)),
    **dict.fromkeys(("waiting_for_children", "waiting_for_finalize"), ("already", None)),
    **dict.fromkeys(("completed", "failed", "timed_out", "finalize_failed"), ("already", None)),
    "cancelled": ("cancelled", None),
}


def _finish(outcome: str, **fields: Any) -> Move:
    return lambda engine, it: engine.report(it.lease, outcome, **fields).result


def _exchange(engine: Engine, it: Subject) -> str:
    row = engine.row("exchange", engine.worker, [outcome_of(it.lease, "completed")], held=[it.id])
    assert row["gone"] == [it.id]
    return "recorded" if row["results"] is None else str(row["results"][0]["result"])


def _tell(engine: Engine, it: Subject) -> int:
    """End the child as a transition does, and tell its parent as the last step."""
    with engine.conn.transaction():
        engine.run(
            """
            select perdure._end_live(array[e.id], 'cancelled', '{"type": "cancelled"}', now())
            from perdure.execution as e
            where e.parent_id = %s
              and exists (
                select from perdure.waiting as w
                where w.id = e.parent_id and e.is_finalize = (w.phase = 'finalize')
              )
            """,
            it.id,
        )
        answer = engine.value("decrement_parents", [it.id], [1], [1], [1])
    assert isinstance(answer, int)
    return answer


# name → (what is called, {status: (answer or code, status afterwards or None for "unchanged")})
TRANSITIONS: dict[str, tuple[Move, Cells]] = {
    "claim_ready": (
        lambda engine, it: [lease.id == it.id for lease in engine.claim(tasks=[it.task])],
        _same([]) | {"ready": ([True], "running")},
    ),
    "finish completed": (
        _finish("completed", output=1),
        NOT_HELD | {"running": ("recorded", "completed")},
    ),
    "finish failed": (_finish("failed"), NOT_HELD | {"running": ("recorded", "failed")}),
    "finish failed, to be retried": (
        lambda engine, it: _finish("failed", delay=60)(engine, it),
        NOT_HELD | {"running": ("recorded", "failed")},
    ),
    "finish timed_out": (_finish("timed_out"), NOT_HELD | {"running": ("recorded", "timed_out")}),
    "finish cancelled": (_finish("cancelled"), NOT_HELD | {"running": ("recorded", "cancelled")}),
    "finish again": (_finish("again"), NOT_HELD | {"running": ("recorded", "ready")}),
    "finish again later": (
        _finish("again", delay=60),
        NOT_HELD | {"running": ("recorded", "scheduled")},
    ),
    "finish released": (_finish("released"), NOT_HELD | {"running": ("recorded", "ready")}),
    "finish spawned": (
        _finish("spawned", children=[{"task": "child"}]),
        NOT_HELD | {"running": ("recorded", "waiting_for_children")},
    ),
    "finish spawned with finalize only": (
        _finish("spawned", finalize={"task": "finalize"}),
        NOT_HELD | {"running": ("recorded", "waiting_for_finalize")},
    ),
    "finish with an unknown outcome": (
        _finish("exploded"),
        NOT_HELD | {"running": ("invalid", "failed")},
    ),
    "exchange": (_exchange, NOT_HELD | {"running": ("recorded", "completed")}),
    "expire_running": (
        lambda engine, it: engine.value("expire_running"),
        _same(0) | {"running": (1, "timed_out")},
    ),
    "expire_deadlines": (
        lambda engine, it: engine.value("expire_deadlines") > 0,
        _same(False) | dict.fromkeys(LIVE, (True, "timed_out")),
    ),
    "process_children_finished": (
        lambda engine, it: engine.value("process_children_finished", it.id),
        _same("QD011"),
    ),
    "decrement_parents": (
        _tell,
        _same(0)
        | {
            "waiting_for_children": (1, "waiting_for_finalize"),
            "waiting_for_finalize": (0, "finalize_failed"),
        },
    ),
    "close_batch with nothing owed": (lambda engine, it: engine.value("close_batch"), _same(0)),
    "wake": (
        lambda engine, it: engine.row("wake", it.task, it.key)["is_woken"],
        _same("QD004") | dict.fromkeys(ENDED, (False, None)) | {"sleeping": (True, "completed")},
    ),
    "cancel": (
        lambda engine, it: engine.value("cancel", it.id),
        _same("finished") | dict.fromkeys(LIVE, ("cancelled", "cancelled")),
    ),
    "retry_finished": (
        lambda engine, it: engine.value("retry_finished", it.id) == it.id,
        _same("QD006") | dict.fromkeys(ENDED, (True, "ready")) | {"woken": (True, "sleeping")},
    ),
    "sweep with nothing due": (
        lambda engine, it: engine.row("sweep")["more"],
        _same(False),
    ),
    "sweep when everything is due": (
        lambda engine, it: engine.row("sweep")["more"],
        _same(False)
        | {
            "scheduled": (False, "ready"),
            "running": (False, "timed_out"),
            "sleeping": (False, "timed_out"),
        },
    ),
    "enqueue with its key": (
        lambda engine, it: engine.enqueue(it.task, key=it.key) == it.id,
        dict.fromkeys(LIVE, (True, None)),
    ),
    "unregister_worker": (
        lambda engine, it: engine.value("unregister_worker", engine.worker),
        _same(0) | {"running": (1, "ready")},
    ),
    "resume_worker without its leases": (
        lambda engine, it: engine.rows("resume_worker", engine.worker),
        _same([]) | {"running": ([], "ready")},
    ),
}

# How far the clock has moved when the transition is called.
LATER = {
    "expire_running": 301.0,
    "expire_deadlines": 24 * HOUR + 1,
    "sweep when everything is due": 2 * HOUR + 1,
}

CELLS = [
    pytest.param(name, status, answer, after, id=f"{name}: {status} -> {after or answer}")
    for name, (_, table) in TRANSITIONS.items()
    for status, (answer, after) in table.items()
]


@pytest.mark.parametrize(("name", "status", "answer", "after"), CELLS)
def test_a_transition_moves_or_refuses(
    engine: Engine, name: str, status: str, answer: Any, after: str | None
) -> None:
    subject = Maker(engine).make(status)
    if name in LATER:
        engine.advance(LATER[name])
    if name == "resume_worker without its leases":
        engine.run("select pg_advisory_unlock_all()")
    before = engine.dump()

    move = TRANSITIONS[name][0]
    if isinstance(answer, str) and answer in errors.by_sqlstate():
        with pytest.raises(psycopg.Error) as raised:
            move(engine, subject)
        assert raised.value.sqlstate == answer
    else:
        assert move(engine, subject) == answer

    if after is None:
        assert engine.dump() == before
    elif after == "scheduled":
        assert engine.room(subject.id) == "scheduled"
    else:
        assert engine.status(subject.id) == after
        assert engine.room(subject.id) != "scheduled"


def test_every_status_is_in_every_row_of_the_matrix() -> None:
    for name, (_, table) in TRANSITIONS.items():
        missing = set(STATUSES) - set(table)
        assert not missing or name == "enqueue with its key", (name, missing)


@pytest.mark.parametrize("status", STATUSES)
def test_close_batch_ends_what_its_tree_owes_and_nothing_that_has_ended(
    engine: Engine, status: str
) -> None:
    subject = Maker(engine).make(status, as_child=True)
    ended_as = engine.status(subject.id)
    root = engine.get(subject.id)["parent_id"]
    engine.run("update perdure.config set cancel_limit = 1")
    assert engine.value("cancel", root) == "cancelled"
    assert engine.status(subject.id) == ended_as, "the cancel itself was bounded"

    while engine.value("close_batch"):
        pass

    assert engine.status(subject.id) == ("cancelled" if status in LIVE else ended_as)
    assert engine.query("select * from perdure.closing") == []


@pytest.mark.parametrize("status", ENDED)
def test_enqueue_makes_a_new_execution_where_the_key_s_holder_has_ended(
    engine: Engine, status: str
) -> None:
    subject = Maker(engine).make(status)
    assert engine.enqueue(subject.task, key=subject.key) > subject.id


@pytest.mark.parametrize("status", LIVE)
def test_a_dead_worker_s_lease_is_taken_and_nothing_else(
    engine: Engine, connect: Callable[..., Any], status: str
) -> None:
    engine.run("update perdure.config set restart_grace = '0'")
    other = Engine(connect())
    subject = Maker(other).make(status)
    engine.lose_worker(other.conn)
    before = engine.dump()
    assert engine.value("expire_running") == 0, "at first the worker is only marked as lost"
    assert engine.dump() == before
    engine.advance(2)

    assert engine.value("expire_running") == (status == "running")

    if status == "running":
        assert engine.status(subject.id) == "ready"
        assert engine.get(subject.id)["crashes"] == 1
    else:
        assert engine.dump() == before


def test_process_children_finished_moves_a_parent_that_nobody_told(engine: Engine) -> None:
    lease = engine.start("parent")
    (child,) = engine.spawn(lease, ["child"])
    with engine.conn.transaction():
        engine.run("select perdure._end_live(array[%s::bigint], 'cancelled', '{}', now())", child)
        engine.run("update perdure.waiting set active = 0 where id = %s", lease.id)
        assert engine.value("process_children_finished", lease.id) == "completed"


UNKNOWN: dict[str, Callable[[Engine], Any]] = {
    "cancel": lambda engine: engine.value("cancel", 404),
    "retry_finished": lambda engine: engine.value("retry_finished", 404),
    "process_children_finished": lambda engine: engine.value("process_children_finished", 404),
    "get_execution": lambda engine: engine.rows("get_execution", 404),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_execution_is_an_error_of_its_own(engine: Engine, name: str) -> None:
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        UNKNOWN[name](engine)
    assert raised.value.sqlstate == "QD001"
    assert engine.dump() == before


@pytest.mark.parametrize("outcome", ["completed", "failed", "spawned", "again", "released"])
def test_a_report_of_another_worker_changes_nothing(engine: Engine, outcome: str) -> None:
    lease = engine.start()
    other = Engine(engine.conn, savepoints=True)
    assert other.worker != engine.worker
    before = engine.dump()
    assert other.report(lease, outcome, children=[{"task": "child"}]).code == "QD008"
    assert engine.dump() == before


WORKER_CALLS: dict[str, tuple[Any, ...]] = {
    "claim_ready": (),
    "finish": ([],),
    "exchange": (),
    "resume_worker": (),
    "unregister_worker": (),
}


@pytest.mark.parametrize("name", WORKER_CALLS)
def test_an_unknown_worker_is_refused(engine: Engine, name: str) -> None:
    engine.enqueue()
    before = engine.dump()
    arguments = ["null" if argument == [] else "" for argument in WORKER_CALLS[name]]
    with pytest.raises(psycopg.Error) as raised:
        engine.run(f"select perdure.{name}({', '.join(['gen_random_uuid()', *arguments])})")
    assert raised.value.sqlstate == "QD007"
    assert engine.dump() == before


SERIALIZED: dict[str, str] = {
    "claim_ready": "gen_random_uuid()",
    "finish": "gen_random_uuid(), '[]'",
    "exchange": "gen_random_uuid()",
    "expire_running": "",
    "expire_deadlines": "",
    "process_children_finished": "1",
    "decrement_parents": "'{1}', '{1}', '{1}', '{0}'",
    "close_batch": "",
    "wake": "'task', 'key'",
    "cancel": "1",
    "retry_finished": "1",
    "sweep": "",
    "resume_worker": "gen_random_uuid()",
    "unregister_worker": "gen_random_uuid()",
}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("name", SERIALIZED)
def test_a_transition_refuses_a_snapshot_that_outlives_its_statements(
    shared: Engine, name: str, level: str
) -> None:
    with pytest.raises(psycopg.Error) as raised, shared.conn.transaction():
        shared.conn.execute(
            f"set transaction isolation level {level};"
            f" select perdure.{name}({SERIALIZED[name]})".encode()
        )
    assert raised.value.sqlstate == "QD010"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_enqueue_runs_at_any_isolation_level(shared: Engine, level: str) -> None:
    with shared.conn.transaction(force_rollback=True):
        shared.conn.execute(f"set transaction isolation level {level}".encode())
        assert shared.room(shared.enqueue(key="k")) == "ready"
