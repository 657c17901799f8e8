"""Rules 18 to 25, as far as they can be read from the catalogue or seen in one session."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Session, Sessions, done


def _naming(engine: Engine, pattern: str) -> set[str]:
    """Functions whose body, without comments, matches the pattern."""
    found = engine.query(
        "select p.proname as name from pg_proc as p where p.pronamespace = 'perdure'::regnamespace"
        " and regexp_replace(p.prosrc, '--[^\\n]*', '', 'g') ~* %s",
        pattern,
    )
    return {row["name"] for row in found}


# 18: session locks


def test_18_only_signs_of_life_and_elections_take_a_session_lock(engine: Engine) -> None:
    taking = _naming(engine, r"pg_(try_)?advisory_lock\M")
    assert taking == {"_keep_alive", "_elect", "_is_led_elsewhere"}
    xact = _naming(engine, r"pg_(try_)?advisory_xact_lock\M")
    assert xact == {"_elect", "_elect_once", "_reserve_table"}


def test_18_a_sweep_leaves_no_lock_behind_and_hinders_no_reconnect(
    engine: Engine, sessions: Sessions
) -> None:
    engine.run("update perdure.config set restart_grace = '0'")
    gone = sessions.open()
    worker = gone.worker
    engine.lose_worker(gone.conn)
    with engine.conn.transaction():
        engine.row("sweep")
        held = (
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        assert engine.one(held) == 0
        resumed = sessions.open()
        try_lock = (
            "select pg_try_advisory_lock(c.lock_namespace, w.id)"
            " from perdure.config as c, perdure.worker as w"
        )
        assert resumed.one(try_lock), "the sweep does not hold the worker's lock"
    assert worker


def test_18_a_worker_that_can_be_seen_holds_its_lock(engine: Engine, sessions: Sessions) -> None:
    engine.run("update perdure.config set restart_grace = '0', worker_grace = '0'")
    other = sessions.open()
    with other.conn.transaction():
        assert other.worker
        engine.row("sweep")
    engine.row("sweep")
    assert engine.one("select bool_and(lost_at is null) from perdure.worker")


# 19, 20: upgrades, settings


def test_19_no_function_has_two_signatures(engine: Engine) -> None:
    twice = """
      select p.proname from pg_proc as p
      where p.pronamespace = 'perdure'::regnamespace group by 1 having count(*) > 1
    """
    assert engine.query(twice) == []


def test_20_no_function_reads_a_custom_setting(engine: Engine) -> None:
    # none of these is a custom one: the level of isolation, whether a commit waits for the disk
    found = _naming(engine, r"current_setting")
    assert found == {"_require_read_committed", "_watched", "elect"}


def test_20_nobody_can_move_the_clock_by_a_setting(engine: Engine) -> None:
    before = engine.one("select clock_timestamp()")
    engine.run("set perdure.now = '2100-01-01'")
    engine.run("set perdure.test_clock = '2100-01-01'")
    assert engine.one("select perdure._clock() - %s < interval '1 hour'", before)


# 21: narrow counters


def test_21_the_row_that_is_counted_in_holds_no_payload(engine: Engine) -> None:
    wide = """
      select attname from pg_attribute
      where attrelid = 'perdure.waiting'::regclass and attnum > 0 and atttypid = 'jsonb'::regtype
    """
    assert engine.query(wide) == []


def test_21_counting_touches_no_index(engine: Engine) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child"] * 20, output="x" * 10_000)
    with engine.conn.transaction():
        for lease in engine.claim(19):
            engine.complete(lease)
        hot = (
            "select pg_stat_get_xact_tuples_updated(c) as updated,"
            " pg_stat_get_xact_tuples_hot_updated(c) as hot"
            " from (values ('perdure.waiting'::regclass)) as x (c)"
        )
        (row,) = engine.query(hot)
    assert row["updated"] == row["hot"] == 19


def test_21_rooms_are_not_truncated_by_vacuum(engine: Engine) -> None:
    off = """
      select relname as name from pg_class
      where relnamespace = 'perdure'::regnamespace and 'vacuum_truncate=off' = any(reloptions)
    """
    names = {row["name"] for row in engine.query(off)}
    assert names >= {"ready", "scheduled", "running", "waiting", "closing"}


# 22: isolation

_TRANSITIONS = {
    "claim_ready": "select * from perdure.claim_ready(%(worker)s)",
    "finish": "select * from perdure.finish(%(worker)s, '[]')",
    "exchange": "select * from perdure.exchange(%(worker)s, want => 1)",
    "expire_running": "select perdure.expire_running()",
    "expire_deadlines": "select perdure.expire_deadlines()",
    "process_children_finished": "select perdure.process_children_finished(1)",
    "decrement_parents": "select perdure.decrement_parents('{1}', '{1}', '{1}', '{0}')",
    "close_batch": "select perdure.close_batch()",
    "wake": "select perdure.wake('t', 'k')",
    "cancel": "select perdure.cancel(1)",
    "retry_finished": "select perdure.retry_finished(1)",
    "elect": "select perdure.elect('{c}', gen_random_uuid())",
    "ping": "select perdure.ping('{c}', gen_random_uuid(), '{1}')",
    "resign": "select perdure.resign('{c}', gen_random_uuid(), '{1}')",
    "request_resign": "select perdure.request_resign('{c}')",
    "notify_ready": "select perdure.notify_ready()",
    "ping_worker": "select perdure.ping_worker(%(worker)s)",
    "set_worker_health": "select perdure.set_worker_health(1, true)",
    "shard_queue": "select perdure.shard_queue('q')",
    "unshard_queue": "select perdure.unshard_queue('q')",
    "acquire_shards": "select * from perdure.acquire_shards(%(worker)s, 'default', '{1}')",
    "release_shards": "select perdure.release_shards(%(worker)s, 'default', '{1}')",
    "release_all_shards": "select perdure.release_all_shards(%(worker)s)",
    "sweep": "select perdure.sweep()",
    "sweep_led": "select perdure.sweep_led('{c}', gen_random_uuid(), '{1}')",
    "sweep_for": "call perdure.sweep_for()",
    "schedule_sweeps": "select perdure.schedule_sweeps()",
    "unschedule_sweeps": "select perdure.unschedule_sweeps()",
    "register_worker": "select perdure.register_worker('w')",
    "resume_worker": "select * from perdure.resume_worker(%(worker)s)",
    "unregister_worker": "select perdure.unregister_worker(%(worker)s)",
    "define_tasks": "select perdure.define_tasks('[]')",
    "watch_table": "select perdure.watch_table('t', 't')",
    "unwatch_table": "select perdure.unwatch_table('t', 't')",
    "repair_watches": "select * from perdure.repair_watches()",
}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("function", _TRANSITIONS)
def test_22_a_transition_refuses_a_longer_snapshot(
    engine: Engine, function: str, level: str
) -> None:
    engine.enqueue()
    worker = engine.worker
    before = engine.dump()
    engine.conn.execute(f"begin isolation level {level}".encode())
    with pytest.raises(psycopg.Error) as caught:
        engine.conn.execute(_TRANSITIONS[function].encode(), {"worker": worker})
    engine.conn.execute("rollback")
    assert caught.value.sqlstate == "QD010"
    assert engine.dump() == before


def test_22_every_function_that_writes_is_tried_above(engine: Engine) -> None:
    writing = """
      select p.proname as name from pg_proc as p
      where p.pronamespace = 'perdure'::regnamespace and p.provolatile = 'v'
        and p.proname !~ '^_' and p.proname !~ '^(enqueue|guard)'
    """
    assert {row["name"] for row in engine.query(writing)} == set(_TRANSITIONS)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_22_enqueue_and_reading_work_at_any_level(engine: Engine, level: str) -> None:
    engine.conn.execute(f"begin isolation level {level}".encode())
    id_ = engine.enqueue(key="k")
    assert engine.enqueue(key="k") == id_
    assert engine.status(id_) == "ready"
    engine.conn.execute("commit")


# 23: deadlines, deaths


def test_23_a_deadline_reaches_an_execution_in_every_room(engine: Engine) -> None:
    far = "2100-01-01"
    waiting = engine.start("parent", deadline=far)
    (child,) = engine.spawn(waiting, ["child"])
    running = engine.start("runs", deadline=far)
    ids = [
        *(waiting.id, running.id, engine.enqueue(deadline=far)),
        engine.enqueue(deadline=far, delay="1 hour"),
        engine.enqueue(deadline=far, sleeping=True, key="k"),
    ]
    engine.run("update perdure.deadline set at = now()")
    assert engine.row("sweep")["timed_out"] >= len(ids)
    assert engine.statuses(ids) == ["timed_out"] * len(ids)
    assert engine.status(child) in ("timed_out", "cancelled")


def test_23_a_deadline_of_a_locked_execution_is_met_later(
    engine: Engine, sessions: Sessions
) -> None:
    id_ = engine.enqueue(deadline="2100-01-01")
    engine.run("update perdure.deadline set at = now()")
    claimer = sessions.open()
    with claimer.conn.transaction():
        claimer.claim()
        engine.row("sweep")
    engine.run("update perdure.closing set due_at = now() - interval '1 second'")
    engine.row("sweep")
    assert engine.status(id_) == "timed_out"


def test_23_deaths_are_noticed_whatever_the_channel(engine: Engine, sessions: Sessions) -> None:
    engine.run("update perdure.config set restart_grace = '0', worker_grace = '0'")
    gone = sessions.open()
    engine.enqueue()
    gone.claim()
    engine.lose_worker(gone.conn)
    assert engine.row("sweep", "another queue")["recovered"] == 1


# 24, 25


def test_24_one_function_notifies(engine: Engine) -> None:
    assert _naming(engine, r"pg_notify") == {"_notify"}
    assert _naming(engine, r"^\s*notify ") == set()


@pytest.mark.parametrize("outcome", ["completed", "failed", "again", "released", "spawned"])
def test_24_an_exchange_does_not_notify_but_says_wake(
    engine: Engine, sessions: Sessions, outcome: str
) -> None:
    lease = engine.start(max_attempts=3, retry_delay="0 s")
    ears = sessions.open()
    ears.run("listen perdure")
    children = [{"task": "child"}, {"task": "child"}]
    row = engine.row(
        "exchange", engine.worker, Jsonb([outcome_of(lease, outcome, children=children)])
    )
    assert row["wake"] == (outcome != "completed")
    assert list(ears.conn.notifies(timeout=0.05)) == []
    engine.value("notify_ready")
    assert len(list(ears.conn.notifies(timeout=5, stop_after=1))) == 1


@pytest.mark.parametrize("outcome", ["completed", "failed", "again", "released", "spawned"])
def test_25_a_late_report_of_a_cancelled_execution_is_told_so(engine: Engine, outcome: str) -> None:
    lease = engine.start(max_attempts=3)
    engine.value("cancel", lease.id)
    before = engine.dump()
    assert engine.report(lease, outcome).result == "cancelled"
    assert engine.dump() == before


@pytest.mark.parametrize("outcome", ["again", "released", "failed"])
def test_25_a_report_that_waits_for_a_cancel_is_too_late(
    engine: Engine, sessions: Sessions, outcome: str
) -> None:
    lease = engine.start(max_attempts=3)
    reporter: Session = sessions.open()
    with engine.conn.transaction():
        engine.value("cancel", lease.id)
        late = reporter.later(_report, reporter, engine.worker, lease, outcome)
        sessions.await_waiting(reporter, late)
    assert done(late) == "cancelled"
    assert engine.room(lease.id) == "finished"


def _report(session: Session, worker: str, lease: Lease, outcome: str) -> str:
    row = session.row("exchange", worker, Jsonb([outcome_of(lease, outcome)]))
    return str(row["results"][0]["result"])


def test_25_fsck_and_executions_are_one_statement(engine: Engine) -> None:
    language = """
      select l.lanname from pg_proc as p join pg_language as l on l.oid = p.prolang
      where p.oid = 'perdure.fsck'::regproc
    """
    assert engine.one(language) == "sql"
    assert engine.one(
        "select prosrc !~ ';\\s*\\S' from pg_proc where oid = 'perdure.fsck'::regproc"
    )
