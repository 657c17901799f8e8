"""Who sweeps: resident leaders, one-shot sweeps beside them, and what fences the one that slept."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest

from fix_due import no_grace
from fix_engine import Engine, Row
from fix_sessions import Session, Sessions, done
from perdure._sweeper import Sweeper

Until = Callable[..., None]


class Leader:
    """Leads channels' sweeping from a session."""

    def __init__(self, session: Engine, *channels: str, **options: Any) -> None:
        self.session = session
        self.channels = list(channels)
        self.holder = str(uuid.uuid4())
        rows = session.rows("elect", self.channels, self.holder, purpose="sweep", **options)
        assert all(row["is_leader"] for row in rows)
        self.epochs = [row["epoch"] for row in rows]

    def sweep(self, **options: Any) -> Row:
        return self.session.row("sweep_led", self.channels, self.holder, self.epochs, **options)


def _due(engine: Engine, times: int = 1) -> None:
    engine.rows("enqueue_many", [{"task": "t", "delay": 1}] * times)
    engine.advance(2)


def _wal(engine: Engine) -> int:
    return int(engine.one("select pg_current_wal_insert_lsn() - '0/0'"))


# Beside a resident leader


@pytest.mark.parametrize("mode", ["session", "lease"])
def test_a_sweep_beside_a_live_leader_is_skipped(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    leader = Leader(sessions.open(), "mail", mode=mode, ttl="1 minute")
    _due(engine)
    row = engine.row("sweep", "mail")
    assert (row["skipped"], row["promoted"], row["more"]) == ("resident leader", 0, False)
    assert engine.row("sweep", "other")["promoted"] == 1, (
        "it sweeps for all, but leads only its own"
    )
    assert leader.sweep()["lost"] == []


@pytest.mark.parametrize("mode", ["session", "lease"])
def test_a_leader_s_own_session_is_skipped_too(engine: Engine, mode: str) -> None:
    leader = Leader(engine, "mail", mode=mode, ttl="1 minute")
    _due(engine)
    assert engine.row("sweep", "mail")["skipped"] == "resident leader"
    assert leader.sweep()["promoted"] == 1


def test_without_a_channel_everything_is_swept_whoever_leads(
    engine: Engine, sessions: Sessions
) -> None:
    leader = Leader(sessions.open(), "mail")
    _due(engine)
    row = engine.row("sweep")
    assert (row["promoted"], row["skipped"]) == (1, None)
    assert leader.sweep()["lost"] == [], "and it still leads"


def test_a_sweep_beside_another_sweep_is_skipped(engine: Engine, sessions: Sessions) -> None:
    first = sessions.open()
    for answer in ("busy", "resident leader"):  # the first one adds the channel
        _due(engine)
        with first.conn.transaction():
            assert first.row("sweep", "mail")["promoted"] == 1
            _due(engine)
            assert engine.row("sweep", "mail")["skipped"] == answer, "for this moment"
            assert first.row("sweep", "mail")["skipped"] is None, "its own lock does not refuse it"
        assert engine.row("sweep", "mail")["skipped"] is None


def test_a_sweep_that_finds_the_row_of_leader_locked_is_skipped(
    engine: Engine, sessions: Sessions
) -> None:
    engine.run("insert into perdure.leader (purpose, channel) values ('sweep', 'mail')")
    _due(engine)
    other = sessions.open()
    with other.conn.transaction():
        other.run("select from perdure.leader for update")
        assert engine.row("sweep", "mail")["skipped"] == "busy"
    assert engine.row("sweep", "mail")["promoted"] == 1


@pytest.mark.parametrize("mode", ["session", "lease"])
def test_when_the_leader_is_dead_anybody_may_sweep(
    engine: Engine, sessions: Sessions, mode: str
) -> None:
    session = sessions.open()
    Leader(session, "mail", mode=mode, ttl="1 second")
    engine.lose_worker(session.conn)
    _due(engine)  # which moves the clock past the lease, too
    row = engine.row("sweep", "mail")
    assert (row["skipped"], row["promoted"]) == (None, 1)


# Fencing


def test_a_leader_that_was_paused_is_fenced_by_a_sweep(engine: Engine, sessions: Sessions) -> None:
    paused = Leader(sessions.open(), "mail", mode="lease", ttl="1 second")
    _due(engine)
    assert engine.row("sweep", "mail")["promoted"] == 1
    _due(engine)
    with pytest.raises(psycopg.Error) as caught:
        paused.sweep()
    assert (caught.value.sqlstate, caught.value.diag.message_detail) == ("QD013", "FENCED")
    assert engine.one("select count(*) from perdure.scheduled") == 1, "it swept nothing"
    (row,) = engine.query("select epoch, mode from perdure.leaders")
    assert row == {"epoch": paused.epochs[0] + 1, "mode": "oneshot"}


def test_a_sweep_with_nothing_to_do_fences_nobody(engine: Engine, sessions: Sessions) -> None:
    paused = Leader(sessions.open(), "mail", mode="lease", ttl="1 second")
    engine.advance(5)
    assert engine.row("sweep", "mail")["skipped"] is None
    assert paused.sweep()["lost"] == []


def test_a_leader_of_several_sweeps_on_for_those_it_still_has(
    engine: Engine, sessions: Sessions
) -> None:
    leader = Leader(sessions.open(), "c", "a", "b")
    other = sessions.open()
    leader.session.rows("resign", ["b"], leader.holder, [leader.epochs[2]], "sweep")
    Leader(other, "b")
    _due(engine)
    row = leader.sweep()
    assert (row["lost"], row["promoted"]) == (["b"], 1)
    row = leader.sweep()
    assert (row["lost"], row["promoted"], row["more"]) == (["b"], 0, False), "also when idle"


@pytest.mark.parametrize("is_due", [False, True])
def test_a_leader_of_nothing_is_told_so(engine: Engine, sessions: Sessions, is_due: bool) -> None:
    leader = Leader(sessions.open(), "mail")
    if is_due:
        _due(engine)
    for holder, epoch in ((leader.holder, 99), (str(uuid.uuid4()), leader.epochs[0])):
        with pytest.raises(psycopg.Error) as caught:
            leader.session.row("sweep_led", ["mail"], holder, [epoch])
        assert caught.value.sqlstate == "QD013"
    with pytest.raises(psycopg.Error) as caught:
        leader.session.row("sweep_led", [], leader.holder, [])
    assert caught.value.sqlstate == "QD013"


def test_nobody_is_elected_while_a_pass_is_not_committed(
    engine: Engine, sessions: Sessions
) -> None:
    leader = Leader(sessions.open(), "mail", mode="lease", ttl="1 second")
    _due(engine)
    candidate = sessions.open()
    with leader.session.conn.transaction():
        assert leader.sweep()["promoted"] == 1
        rows = candidate.rows("elect", ["mail"], str(uuid.uuid4()), "lease", purpose="sweep")
        assert [(row["is_leader"], row["reason"]) for row in rows] == [(False, "busy")]
        assert engine.row("sweep", "mail")["skipped"] == "busy"
    assert candidate.rows("elect", ["mail"], str(uuid.uuid4()), "lease", purpose="sweep")[0][
        "is_leader"
    ]


def test_g14_of_many_sweeps_at_once_for_one_channel_one_sweeps(
    engine: Engine, sessions: Sessions
) -> None:
    """The singleton is never doubly active: an epoch has one pass, and each is one higher."""
    engine.run(
        "create table public.passes (epoch bigint, at timestamptz default clock_timestamp())"
    )
    engine.run(
        """
        create function public.note() returns trigger language plpgsql as $$ begin
          insert into public.passes
          select l.epoch from perdure.leader as l where l.purpose = 'sweep';
          return null;
        end $$
        """
    )
    engine.run(
        "create trigger note after delete on perdure.scheduled"
        " for each statement execute function public.note()"
    )
    _due(engine, 600)
    callers = [sessions.open() for _ in range(6)]
    calls = [caller.later(_sweep_until_empty, caller) for caller in callers]
    assert sum(done(call) for call in calls) == 600
    epochs = engine.query(
        "select epoch, count(*) as times from public.passes group by epoch order by 1"
    )
    assert {row["times"] for row in epochs} == {1}
    assert engine.one("select epoch from perdure.leader") >= len(epochs)


def _sweep_until_empty(session: Session) -> int:
    promoted = 0
    while session.query("select from perdure.scheduled limit 1"):
        promoted += session.row("sweep", "mail", 20)["promoted"]
    return promoted


# Many at once


def test_two_leaders_worth_of_sweeps_at_once_do_nothing_twice(
    engine: Engine, sessions: Sessions
) -> None:
    no_grace(engine)
    gone, hung = sessions.open(), sessions.open()
    engine.rows("enqueue_many", [{"task": "dies", "max_crashes": 3}] * 200)
    gone.claim(200)
    engine.rows("enqueue_many", [{"task": "hangs", "timeout": 0.001, "max_attempts": 2}] * 200)
    hung.claim(200)
    engine.rows("enqueue_many", [{"task": "later", "delay": 1}] * 500)
    engine.rows("enqueue_many", [{"task": "late", "deadline": 1}] * 200)
    keyed = [{"task": "k", "key": f"{n}", "sleeping": True, "timeout": 1} for n in range(200)]
    engine.rows("enqueue_many", keyed)
    for _ in range(20):
        parent = hung.start("parent", deadline=engine.one("select now() + interval '1 hour'"))
        hung.spawn(parent, [{"task": "child", "deadline": 1}] * 20, finalize={"task": "f"})
    engine.lose_worker(gone.conn)
    engine.advance(10)

    leaders = [Leader(sessions.open(), "a", "b"), Leader(sessions.open(), "c")]
    loose: list[Session] = [sessions.open() for _ in range(2)]
    calls: list[Future[Row]] = [
        *(leader.session.later(_sweep_all, leader.sweep) for leader in leaders),  # type: ignore[attr-defined]
        loose[0].later(_sweep_all, lambda: loose[0].row("sweep")),
        loose[1].later(_sweep_all, lambda: loose[1].row("sweep", "mail")),
    ]
    reports = [done(call) for call in calls]
    while (row := engine.row("sweep"))["more"]:
        reports.append(row)

    def total(name: str) -> int:
        return sum(report[name] for report in reports)

    engine.advance(1)  # what was locked is told now
    while engine.row("sweep")["more"]:
        pass
    assert total("recovered") == 400
    assert total("timed_out") == 200 + 200 + 400
    crashed = "select count(*) from perdure.ready where task = 'dies' and crashes = 1"
    assert engine.one(crashed) == 200
    assert engine.one("select count(*) from perdure.attempt where status = 'timed_out'") == 200
    assert engine.one("select count(*) from perdure.ready where task = 'f'") == 20
    assert engine.one("select count(*) from perdure.ready where task = 'later'") == 500


def _sweep_all(sweep: Any) -> Row:
    first: Row = sweep()
    total, row = first, first
    while row["more"]:
        row = sweep()
        total = {
            name: value + row[name] if isinstance(value, int) else value
            for name, value in total.items()
        }
    return total


# Nothing when nothing is due


def test_an_idle_sweep_writes_nothing_and_locks_nothing(engine: Engine, sessions: Sessions) -> None:
    no_grace(engine)
    engine.run("update perdure.config set retention = '30 days', stale_fail_after = '1 day'")
    working = sessions.open()
    worker = working.value("register_worker", "w", ["mail", "default"], ["known"])
    far = engine.one("select now() + interval '1 day'")
    engine.rows("enqueue_many", [{"task": "known"}] * 300)
    engine.rows("enqueue_many", [{"task": "known", "delay": 3600}] * 100)
    engine.enqueue("known", deadline=far, key="k", key_for="1 day")
    engine.enqueue("asleep", sleeping=True, key="k", timeout="1 hour")
    working.claim(5, worker)
    engine.value("cancel", engine.enqueue("known", key="l", key_for="1 day"))
    engine.rows("enqueue_many", [{"task": "foreign", "queue": "elsewhere"}] * 10)
    leader = Leader(sessions.open(), "mail", "default")
    watch = sessions.open()
    conn, lead = leader.session.conn, leader.sweep
    held = (
        "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'relation'"
        " and mode <> 'AccessShareLock'"
    )
    sweeps: list[Callable[[], Row]] = [
        lead,
        lambda: leader.session.row("sweep"),
        lambda: leader.session.row("sweep", "another"),
    ]
    for sweep in sweeps:
        sweep()
        before = _wal(watch)
        with conn.transaction():
            row = sweep()
            assert leader.session.one("select pg_current_xact_id_if_assigned() is null")
            if sweep is lead:
                assert leader.session.one(held) == 0, "it does not even come to a locking read"
        assert not any(value for value in row.values()), row
        assert _wal(watch) - before < 200, "nothing but what the server notes by itself"
    assert watch.one("select count(*) from perdure.leader") == 2, "no row for `another`"


def test_a_foreign_head_of_the_line_is_due_and_a_long_known_one_is_not(
    engine: Engine, sessions: Sessions
) -> None:
    session = sessions.open()
    session.value("register_worker", "w", ["default"], ["known"])
    leader = Leader(sessions.open(), "default")
    engine.rows("enqueue_many", [{"task": "known"}] * 150)
    foreign = engine.enqueue("foreign")
    assert leader.sweep()["moved"] == 0, "it stands behind so many that it is in nobody's way"
    engine.run("delete from perdure.execution where task = 'known' and id <> %s", foreign)
    engine.run("delete from perdure.ready where task = 'known'")
    assert leader.sweep()["moved"] == 1
    other = sessions.open()
    other.value("register_worker", "x", ["default"], ["foreign"])
    assert leader.sweep()["moved"] == 0, "the worker had it brought back"


# Telling workers


def _events(session: Session) -> list[str]:
    return sorted(notice.payload for notice in session.conn.notifies(timeout=0.1))


def test_a_pass_notifies_once_whatever_it_did(engine: Engine, sessions: Sessions) -> None:
    no_grace(engine)
    ears = sessions.open()
    ears.run("listen perdure")
    assert engine.row("sweep")["promoted"] == 0
    assert _events(ears) == []

    engine.rows("enqueue_many", [{"task": "t", "delay": 1}] * 700, notify=False)
    engine.advance(2)
    engine.row("sweep")
    assert _events(ears) == ['{"event": "ready", "queues": null}']

    gone = sessions.open()
    gone.claim(5)
    engine.lose_worker(gone.conn)
    _events(ears)
    engine.row("sweep")
    assert _events(ears) == ['{"event": "gone"}'], "which also says that they can be claimed"


# What it leaves to others


def test_setting_aside_gets_a_tenth_of_the_time(engine: Engine, db: str, until: Until) -> None:
    engine.one("select perdure.register_worker('w', tasks => '{known}')")
    sweeper = Sweeper(db, "s", ["default"], ())
    sweeper._election.stand(["default"])
    try:
        until(sweeper.led)
        engine.rows("enqueue_many", [{"task": "unknown"}] * 20_000)
        began = time.monotonic()
        pause = sweeper._pass(sweeper.led())
        taken = time.monotonic() - began
        moved = engine.one("select count(*) from perdure.ready where is_aside")
        assert 0 < moved < 20_000
        assert 0 < pause <= 9 * taken
        engine.rows("enqueue_many", [{"task": "known", "delay": 1}] * 3_000)
        engine.run("update perdure.scheduled set start_at = start_at - interval '2 s'")
        assert sweeper._pass(sweeper.led()) == 0.0, "what is due is not kept waiting"
    finally:
        sweeper.stop()
