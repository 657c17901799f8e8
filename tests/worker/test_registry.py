"""The registry of workers as psql has it: who is known, under which number, alive or not."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
import pytest

from fix_engine import Engine, Row
from fix_sessions import Session, Sessions, done

MODES = ["session", "lease"]
TTL = 10.0  # seconds, of a lease


@pytest.fixture(autouse=True)
def _no_grace(engine: Engine) -> None:
    """Whoever is lost is given up by the next sweep."""
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '0'")


def workers(engine: Engine) -> list[Row]:
    return engine.query("select * from perdure.workers order by machine_id")


def live(engine: Engine) -> list[int]:
    return [row["machine_id"] for row in workers(engine) if row["is_alive"]]


def register(session: Engine, mode: str, name: str = "w", **options: Any) -> str:
    return str(session.value("register_worker", name, mode=mode, ttl=f"{TTL} s", **options))


def fall_silent(engine: Engine, session: Session, mode: str) -> None:
    """Its session ends, or its lease does."""
    if mode == "session":
        engine.lose_worker(session.conn)
    else:
        engine.advance(TTL + 1)


def refusal(session: Engine, function: str, *given: Any, **named: Any) -> str:
    with pytest.raises(psycopg.Error) as caught:
        session.rows(function, *given, **named)
    return caught.value.sqlstate or ""


@pytest.mark.parametrize("mode", MODES)
def test_g9_registered_twice_is_one_row_with_a_stable_machine_id(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    register(sessions.open(), mode, "the first")
    session, incarnation = sessions.open(), str(uuid4())
    assert register(session, mode, incarnation=incarnation) == incarnation
    row = engine.query("select xmin::text, * from perdure.worker order by id")[1]
    again = register(session, mode, "other", queues=["r"], weight=7, incarnation=incarnation)
    assert again == incarnation
    assert engine.query("select xmin::text, * from perdure.worker order by id")[1:] == [row]
    assert row["machine_id"] == 2
    assert session.value("ping_worker", incarnation) == 2
    assert live(engine) == [1, 2]


def test_g9_registered_twice_at_once_is_one_row(engine: Engine, sessions: Sessions) -> None:
    one, other, incarnation = sessions.open(), sessions.open(), str(uuid4())
    with one.conn.transaction():
        register(one, "lease", incarnation=incarnation)
        call = other.later(register, other, "lease", incarnation=incarnation)
        sessions.await_waiting(other, call)
    assert done(call) == incarnation
    assert live(engine) == [1]


def test_g9_one_life_is_not_shown_by_two_sessions(engine: Engine, sessions: Sessions) -> None:
    one, other = sessions.open(), sessions.open()
    incarnation = register(one, "session")
    assert refusal(other, "register_worker", "w", incarnation=incarnation) == "QD009"
    assert refusal(other, "ping_worker", incarnation) == "QD009"
    engine.lose_worker(one.conn)
    assert other.value("ping_worker", incarnation) == 1
    assert live(engine) == [1]


@pytest.mark.parametrize("mode", MODES)
def test_g9_a_name_is_no_identity(engine: Engine, sessions: Sessions, mode: str) -> None:
    """Who starts anew on the same host, under the same name, is somebody else."""
    first, second = (register(sessions.open(), mode, "host:1") for _ in range(2))
    assert first != second
    rows = workers(engine)
    assert [(row["name"], row["machine_id"]) for row in rows] == [("host:1", 1), ("host:1", 2)]


@pytest.mark.parametrize("mode", MODES)
def test_g9_health_flips(engine: Engine, sessions: Sessions, mode: str) -> None:
    register(sessions.open(), mode)
    register(sessions.open(), mode)
    for healthy in (False, False, True):
        assert engine.value("set_worker_health", 1, healthy)
        assert [row["is_healthy"] for row in workers(engine)] == [healthy, True]
    assert live(engine) == [1, 2], "health is no life"
    assert not engine.value("set_worker_health", 3, healthy=False)
    assert refusal(engine, "set_worker_health", 1, None) == "QD026"


@pytest.mark.parametrize("mode", MODES)
def test_g9_who_is_unregistered_is_gone(engine: Engine, sessions: Sessions, mode: str) -> None:
    session = sessions.open()
    incarnation = register(session, mode)
    id_ = engine.enqueue()
    assert [lease.id for lease in session.claim(worker=incarnation)] == [id_]
    assert session.value("unregister_worker", incarnation) == 1
    assert workers(engine) == []
    assert engine.query("select from perdure.worker_lease") == []
    assert engine.one("select perdure._live_workers()") == []
    assert (engine.status(id_), engine.get(id_)["crashes"]) == ("ready", 0)
    for function in ("unregister_worker", "ping_worker"):
        assert refusal(session, function, incarnation) == "QD007"
    assert register(session, mode) != incarnation
    assert live(engine) == [1]


@pytest.mark.parametrize("mode", MODES)
def test_g9_who_shows_no_life_is_no_longer_among_the_living_and_then_gone(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    session, other = sessions.open(), sessions.open()
    incarnation, survivor = register(session, mode), register(other, mode)
    fall_silent(engine, session, mode)
    other.value("ping_worker", survivor)
    assert live(engine) == [2]
    assert [row["machine_id"] for row in workers(engine)] == [1, 2], "until somebody sweeps"
    for _ in range(2):
        engine.row("sweep")
    assert [row["machine_id"] for row in workers(engine)] == [2]
    assert refusal(other, "ping_worker", incarnation) == "QD007"


@pytest.mark.parametrize("mode", MODES)
def test_g9_who_is_back_before_a_sweep_is_the_same_one(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    session, back = sessions.open(), sessions.open()
    incarnation = register(session, mode)
    fall_silent(engine, session, mode)
    assert live(engine) == []
    assert back.value("ping_worker", incarnation) == 1
    for _ in range(2):
        engine.row("sweep")
    assert live(engine) == [1]


def test_g9_a_lease_is_renewed_by_each_ping_from_any_session(
    engine: Engine, sessions: Sessions
) -> None:
    incarnation = register(sessions.open(), "lease")
    for _ in range(5):
        engine.advance(TTL * 0.9)
        sessions.open().value("ping_worker", incarnation)
        engine.row("sweep")
        assert live(engine) == [1]
    assert engine.one("select perdure._locked_keys()") == [], "no session lock"


def test_g9_an_unregistered_worker_takes_no_other_along(engine: Engine, sessions: Sessions) -> None:
    """The one that is lost too waits for the sweep that recovers its work."""
    leaving, lost = sessions.open(), sessions.open()
    incarnation = register(leaving, "lease")
    gone = register(lost, "session")
    id_ = engine.enqueue()
    lost.claim(worker=gone)
    engine.lose_worker(lost.conn)
    leaving.value("unregister_worker", incarnation)
    assert [row["machine_id"] for row in workers(engine)] == [2]
    assert engine.status(id_) == "running"
    for _ in range(2):
        engine.row("sweep")
    assert (engine.status(id_), engine.get(id_)["crashes"]) == ("ready", 1)


@pytest.mark.parametrize("mode", MODES)
def test_g9_machine_ids_are_the_smallest_free_ones(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    members = [sessions.open() for _ in range(4)]
    incarnations = [register(member, mode) for member in members]
    assert live(engine) == [1, 2, 3, 4]
    for n in (0, 2):
        members[n].value("unregister_worker", incarnations[n])
    assert live(engine) == [2, 4]
    calls = [s.later(register, s, mode) for s in [sessions.open() for _ in range(6)]]
    assert len({done(call) for call in calls}) == 6
    assert live(engine) == list(range(1, 9)), "also when they come at once"
