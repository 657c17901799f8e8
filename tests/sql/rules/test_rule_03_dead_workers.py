"""Rule 3: a worker cannot be given up while it claims, nor claim when it was given up."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_sessions import Session, Sessions, done


@pytest.fixture
def dying(engine: Engine, sessions: Sessions) -> Session:
    """The session of a worker; when it is killed, the next sweep gives the worker up."""
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '0'")
    session = sessions.open()
    assert session.worker
    return session


def test_a_worker_is_not_given_up_while_its_claim_is_uncommitted(
    engine: Engine, sessions: Sessions, dying: Session
) -> None:
    id_ = engine.enqueue()
    claimer = sessions.open()
    with claimer.conn.transaction():
        (lease,) = claimer.claim(worker=dying.worker)
        engine.lose_worker(dying.conn)
        assert engine.row("sweep")["recovered"] == 0
        assert engine.one("select count(*) from perdure.worker") == 1
    assert engine.row("sweep")["recovered"] == 1
    assert engine.one("select count(*) from perdure.worker") == 0
    assert engine.get(id_)["crashes"] == 1
    (again,) = engine.claim()
    assert again.token > lease.token


def test_a_lease_that_is_renewed_while_its_worker_is_given_up_waits_and_is_refused(
    engine: Engine, sessions: Sessions
) -> None:
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '0'")
    worker = engine.value("register_worker", "w", mode="lease")
    engine.run("update perdure.worker_lease set expires_at = '2000-01-01'")
    engine.run("update perdure.worker set lost_at = '2000-01-01'")
    engine.run(
        "create function public.halt() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(1); return old; end $$"
    )
    engine.run(
        "create trigger halt before delete on perdure.worker"
        " for each row execute function public.halt()"
    )
    sweeper, late = sessions.open(), sessions.open()
    with engine.conn.transaction():
        engine.run("select pg_advisory_xact_lock(1)")
        swept = sweeper.later(sweeper.row, "sweep")
        sessions.await_waiting(sweeper, swept)
        refused = late.later(late.value, "ping_worker", worker)
        sessions.await_waiting(late, refused)
    done(swept)
    with pytest.raises(psycopg.Error) as caught:
        done(refused)
    assert caught.value.sqlstate == "QD007"
    assert engine.one("select count(*) from perdure.worker_lease") == 0


@pytest.mark.parametrize("call", ["claim_ready", "exchange", "finish"])
def test_who_comes_while_it_is_given_up_waits_and_is_refused(
    engine: Engine, sessions: Sessions, dying: Session, call: str
) -> None:
    id_ = engine.enqueue()
    dying.claim_one(id_)
    engine.enqueue()
    engine.lose_worker(dying.conn)
    late = sessions.open()
    arguments: dict[str, dict[str, Any]] = {"exchange": {"want": 1}, "finish": {"outcomes": []}}
    given = arguments.get(call, {})
    with engine.conn.transaction():
        assert engine.row("sweep")["recovered"] == 1
        refused = late.later(late.rows, call, dying.worker, **given)
        sessions.await_waiting(late, refused)
    with pytest.raises(psycopg.Error) as caught:
        done(refused)
    assert caught.value.sqlstate == "QD007"
    assert engine.one("select count(*) from perdure.running") == 0


def test_leases_of_a_worker_that_does_not_exist_are_recovered(engine: Engine) -> None:
    engine.run("update perdure.config set restart_grace = '0'")
    lease = engine.start()
    engine.run("delete from perdure.worker")
    assert engine.row("sweep")["recovered"] == 1
    assert engine.status(lease.id) == "ready"


def test_a_worker_that_comes_back_within_the_grace_keeps_its_leases(
    engine: Engine, sessions: Sessions, dying: Session
) -> None:
    engine.run("update perdure.config set worker_grace = '1 hour'")
    id_ = engine.enqueue()
    lease = dying.claim_one(id_)
    engine.lose_worker(dying.conn)
    engine.row("sweep")
    assert engine.one("select lost_at is not null from perdure.worker")
    back = sessions.open()
    back.row("ping_worker", dying.worker)
    assert back.rows("resume_worker", dying.worker, [id_]) == [{"id": id_, "token": lease.token}]
    assert engine.one("select lost_at is null from perdure.worker")


def test_a_worker_that_is_marked_lost_though_it_lives_is_found_again(
    engine: Engine, dying: Session
) -> None:
    engine.run("update perdure.worker set lost_at = now()")
    engine.row("sweep")
    assert engine.one("select lost_at is null from perdure.worker")


def test_an_incarnation_is_never_used_again(engine: Engine, sessions: Sessions) -> None:
    first = engine.worker
    engine.value("unregister_worker", first)
    other = sessions.open()
    assert other.worker != first
    ids = engine.query("select id from perdure.worker")
    with pytest.raises(psycopg.Error) as caught:
        engine.rows("resume_worker", first)
    assert caught.value.sqlstate == "QD007"
    assert engine.query("select id from perdure.worker") == ids


def test_a_restart_gives_nobody_up_at_once(engine: Engine) -> None:
    engine.run("update perdure.config set worker_grace = '0', restart_grace = '1 hour'")
    lease = engine.start()
    engine.run("select pg_advisory_unlock_all()")
    assert engine.row("sweep")["recovered"] == 0
    assert engine.status(lease.id) == "running"
