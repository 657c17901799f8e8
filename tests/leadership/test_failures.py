"""What ends a leadership that was not given back, and how soon another begins."""

from __future__ import annotations

import contextlib
import inspect
import signal
import time
from collections.abc import Callable
from queue import Queue
from typing import Any

import psycopg
import pytest

from fix_locks import StartLock, make_written
from fix_machines import Network, OwnServer, Proxy, await_that, open_standby
from perdure import ChannelLock, _channel_lock, _direct, _election, errors

StartProxy = Callable[[str], Proxy]


def test_g3_who_is_cut_off_stops_believing_before_the_next_one_starts(
    network: Network, network_db: str, start_lock: StartLock
) -> None:
    written = make_written(network_db)
    near, far = network.machines[:2]
    old = start_lock(network_db, machine=near)
    old.say("stand")
    epoch, holder, _ = old.acquired()
    assert old.asks(f"write {holder} {epoch}") == "written"
    new = start_lock(network_db, machine=far)
    assert new.asks("acquire 0") == "False"
    new.say("stand")
    near.cut()
    cut = time.monotonic()
    try:
        after, other, began = new.acquired()
        lost = float(old.expect("lost").split()[1])
    finally:
        near.mend()
    assert lost < began < cut + 1.5
    assert after == epoch + 1
    assert old.asks(f"write {holder} {epoch}") == "refused QD013"
    assert new.asks(f"write {other} {after}") == "written"
    assert written() == [(epoch, holder), (after, other)]
    new.close()
    assert old.acquired()[0] == after + 1  # the one that was cut off is back


def test_g3_who_was_frozen_is_replaced_and_what_it_writes_late_is_refused(
    db: str, start_lock: StartLock
) -> None:
    written = make_written(db)
    old, new = start_lock(db), start_lock(db)
    old.say("stand")
    epoch, holder, _ = old.acquired()
    assert new.asks("acquire 0") == "False"
    new.say("stand")
    old.send(signal.SIGSTOP)
    frozen = time.monotonic()
    old.say(f"write {holder} {epoch}")  # it will find this when it comes to
    after, other, began = new.acquired()
    assert began < frozen + 1.5
    old.send(signal.SIGCONT)
    assert old.answer()[0] == "refused QD013"
    assert old.asks("believes") == "None"
    assert int(old.expect("lost").split()[0]) == epoch
    assert new.asks(f"write {other} {after}") == "written"
    assert written() == [(after, other)]


def test_g5_after_pg_terminate_backend_one_is_active_within_a_second(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    programs = [start_lock(db) for _ in range(2)]
    for program in programs:
        program.say("stand")
    await_that(lambda: any("acquired" in " ".join(program.told) for program in programs))
    for epoch in range(2, 5):
        ended = time.monotonic()
        conn.execute(
            "select pg_terminate_backend(backend) from perdure.leaders where channel = 'news'"
        )
        led = "select from perdure.leaders where is_held and epoch = %s"
        while not conn.execute(led, [epoch]).fetchall():
            assert time.monotonic() < ended + 1
            time.sleep(0.005)
    # The row says so before the one that wrote it has read its answer.
    await_that(lambda: sorted(p.asks("believes") for p in programs) == ["4", "None"])


def test_kill_9_of_the_leader_while_a_statement_runs(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    """Its session waits for a row; the server finds out on its own that nobody is there."""
    old = start_lock(db, "news", "ttl=4")
    assert old.asks("acquire") == "True"
    new = start_lock(db, "news", "ttl=4")
    assert new.asks("acquire 0") == "False"
    new.say("stand")
    with conn.transaction():
        conn.execute("select from perdure.leader for update")
        old.say("release")
        with psycopg.connect(db, autocommit=True) as other:
            await_that(
                lambda: other.execute(
                    "select from pg_stat_activity"
                    " where datname = current_database() and wait_event_type = 'Lock'"
                ).fetchall()
            )
            began = time.monotonic()
            old.close()
            held = "select from perdure.leaders where is_held"
            await_that(
                lambda: not other.execute(held).fetchall(), within=began + 3 - time.monotonic()
            )
    assert new.acquired()[0] == 2


def test_after_a_restart_of_the_database_one_leads_again(
    private_server: OwnServer, private_db: str, start_lock: StartLock
) -> None:
    programs = [start_lock(private_db) for _ in range(3)]
    for program in programs:
        program.say("stand")
    await_that(lambda: any("acquired" in " ".join(p.told) for p in programs))
    private_server.stop_immediately()
    await_that(lambda: any("lost" in " ".join(p.told) for p in programs))
    assert [p.asks("believes") for p in programs] == ["None"] * 3
    private_server.start()
    with psycopg.connect(private_db, autocommit=True) as conn:
        await_that(lambda: conn.execute("select from perdure.leaders where is_held").fetchall())
        row = conn.execute("select epoch from perdure.leader").fetchone()
    assert row == (2,)
    await_that(lambda: [p for p in programs if p.asks("believes") == "2"])


def test_g11_on_a_blackholed_connection_every_operation_ends_in_time(
    private_db: str, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(private_db)
    lost: Queue[float] = Queue()
    lock = ChannelLock("news", proxy.dsn, on_lost=lambda _: lost.put(time.monotonic()))
    peer_began: Queue[float] = Queue()
    peer = ChannelLock("news", private_db, on_acquire=lambda _: peer_began.put(time.monotonic()))
    assert lock.acquire(timeout=5)
    peer.stand()
    proxy.fall_silent()
    began = time.monotonic()
    ended = lost.get(timeout=5)
    assert ended - began < 1
    assert not lock.is_acquired
    assert ended < peer_began.get(timeout=5)  # never two
    began = time.monotonic()
    assert not lock.acquire(timeout=0.5)
    with pytest.raises(errors.CannotConnect):
        lock.acquire(timeout=0)
    assert lock.release()  # nothing is held
    assert time.monotonic() - began < 5
    lock.stand()
    opened = proxy.opened
    await_that(lambda: proxy.opened > opened + 1)  # it tries again, and again
    assert peer.is_acquired
    proxy.speak()
    assert peer.release()
    assert lock.acquire(timeout=10)
    assert proxy.most_asked == 1


def test_g11_a_release_that_gets_no_answer_says_so_in_time_and_the_lock_comes_free(
    private_db: str, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(private_db)
    lock = ChannelLock("news", proxy.dsn)
    assert lock.acquire(timeout=5)
    proxy.fall_silent()
    began = time.monotonic()
    assert not lock.release()
    assert time.monotonic() - began < 1
    assert not lock.is_acquired
    proxy.speak()
    assert lock.acquire(timeout=5)  # once the server has ended the session that had it
    assert lock.epoch == 2


def test_a_lost_notification_costs_one_retry(private_db: str, start_proxy: StartProxy) -> None:
    proxy = start_proxy(private_db)
    holder = ChannelLock("news", private_db)
    assert holder.acquire(timeout=5)
    began: Queue[float] = Queue()
    standby = ChannelLock(
        "news", proxy.dsn, retry=0.5, on_acquire=lambda _: began.put(time.monotonic())
    )
    standby.stand()
    assert not standby.acquire(timeout=0)
    proxy.is_deaf = True
    released = time.monotonic()
    assert holder.release()
    assert began.get(timeout=5) - released < 0.5 * 1.2 + 0.3


def test_a_listener_that_is_silently_dead_comes_back_by_itself(
    private_db: str, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(private_db)
    holder = ChannelLock("news", private_db)
    assert holder.acquire(timeout=5)
    heard: Queue[str] = Queue()
    standby = ChannelLock("news", proxy.dsn, on_release=heard.put)
    standby.stand()
    assert not standby.acquire(timeout=0)
    proxy.fall_silent()
    opened = proxy.opened
    await_that(lambda: proxy.opened > opened)
    proxy.speak()
    await_that(lambda: _is_refused(standby))
    assert holder.release()
    assert heard.get(timeout=5) == "news"
    assert standby.acquire(timeout=5)


def _is_refused(lock: ChannelLock) -> bool:
    """Whether the database answers at all, and says no."""
    with contextlib.suppress(errors.CannotConnect):
        return not lock.acquire(timeout=0)
    return False


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "no json",
        "7",
        "[]",
        "{}",
        '{"event": 7}',
        '{"event": "released", "purpose": "lock", "channels": [7, null]}',
        '{"event": "released", "purpose": ["lock"], "channels": "news"}',
        '{"event": "unheard of", "channels": {"news": 1}}',
    ],
)
def test_what_others_notify_on_our_channel_does_no_harm(
    payload: str, db: str, conn: psycopg.Connection[Any]
) -> None:
    with ChannelLock("news", db, ttl=0.5) as lock:
        conn.execute("select pg_notify('perdure', %s)", [payload])
        time.sleep(0.6)
        assert lock.epoch == 1


def test_steps_of_the_wall_clock_change_nothing(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [time.time()]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    with ChannelLock("news", db, ttl=0.5) as lock:
        for step in (3600, -7200, 86400 * 365, -86400 * 365):
            wall[0] += step
            time.sleep(0.2)
            assert lock.epoch == 1
    for module in (_election, _channel_lock, _direct):
        source = inspect.getsource(module)
        assert "time.time" not in source
        assert "datetime" not in source


def test_leadership_on_a_hot_standby_is_refused_clearly_until_it_is_promoted(
    private_server: OwnServer, private_db: str
) -> None:
    with open_standby(private_server) as standby:
        dsn = psycopg.conninfo.make_conninfo(
            standby, dbname=psycopg.conninfo.conninfo_to_dict(private_db)["dbname"]
        )
        with psycopg.connect(dsn, autocommit=True) as conn:
            with pytest.raises(psycopg.Error, match="is a hot standby") as refused:
                conn.execute("select * from perdure.elect('{news}', gen_random_uuid())")
            assert refused.value.sqlstate == "QD016"
        for timeout in (0, 5, None):
            with pytest.raises(errors.HotStandby, match="target_session_attrs"):
                ChannelLock("news", dsn).acquire(timeout)
        lock = ChannelLock("news", dsn)
        lock.stand()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("select pg_promote()")
        await_that(lambda: lock.is_acquired)


def test_without_a_database_acquire_says_so() -> None:
    with pytest.raises(errors.CannotConnect):
        ChannelLock("news", "host=/nowhere").acquire()


def test_without_the_schema_acquire_says_so(bare_db: str) -> None:
    with pytest.raises(errors.ClientNewer, match="perdure migrate"):
        ChannelLock("news", bare_db).acquire()


def test_without_privileges_acquire_says_so(db: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("drop role if exists perdure_test_nobody")
    conn.execute("create role perdure_test_nobody login")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ChannelLock("news", f"{db} user=perdure_test_nobody").acquire()
    finally:
        conn.execute("drop role perdure_test_nobody")
