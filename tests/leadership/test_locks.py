"""A channel lock as its users see it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from fix_locks import StartLock
from fix_machines import await_that
from perdure import ChannelLock, errors

AWKWARD = "'\"\\𝔓" + "𓀀" * 251  # 255 characters, nearly all of four bytes


def test_g1_one_of_two_is_active_and_the_other_follows_within_a_second(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    first, second = (start_lock(db, "news", "listen=mine") for _ in range(2))
    first.say("stand")
    epoch, _, _ = first.acquired()
    first.expect("listening")
    second.say("stand")
    assert second.asks("acquire 0") == "False"
    first.say("close")
    _, before = first.answer()
    after, _, at = second.acquired()
    assert after == epoch + 1
    assert at - before < 1
    second.expect("listening")
    conn.execute("notify mine, 'hello'")
    assert second.expect("message").split()[0] == "hello"
    assert not [line for line in first.told if line.startswith("message")]


def test_g2_after_sigkill_the_other_is_active_within_half_a_second_and_hears(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    first, second = (start_lock(db, "news", "listen=mine") for _ in range(2))
    first.say("stand")
    epoch, _, _ = first.acquired()
    second.say("stand")
    assert second.asks("acquire 0") == "False"
    killed = time.monotonic()
    first.close()
    after, _, at = second.acquired()
    assert after == epoch + 1
    assert at - killed < 0.5
    second.expect("listening")
    conn.execute("notify mine, 'hello'")
    assert second.expect("message").split()[0] == "hello"


def test_g4_to_acquire_and_stand_twice_changes_nothing(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    lost: list[int] = []
    with ChannelLock("news", db, on_lost=lost.append) as lock:
        epoch = lock.epoch
        assert lock.acquire()
        assert lock.acquire(timeout=0)
        lock.stand()
        lock.stand()
        assert conn.execute("select epoch from perdure.leader").fetchall() == [(epoch,)]
    assert lost == []
    assert not lock.is_acquired
    with ChannelLock("news", db) as other:
        assert other.epoch == (epoch or 0) + 1


def test_g7_the_release_handler_is_called_once_for_each_release_by_whomever(
    db: str, start_lock: StartLock
) -> None:
    mine: Queue[str] = Queue()
    other = start_lock(db)
    assert other.asks("acquire") == "True"
    lock = ChannelLock("news", db, on_release=mine.put)
    assert not lock.acquire(timeout=0)
    assert other.asks("release") == "True"
    assert mine.get(timeout=5) == "news"
    assert other.expect("released").split()[0] == "news"
    assert lock.acquire(timeout=5)
    assert lock.release()
    assert mine.get(timeout=5) == "news"
    other.expect("released")
    lock.close()
    assert mine.empty()
    assert sum(line.startswith("released") for line in other.told) == 2


def test_g7_users_who_listen_on_the_channel_hear_nothing_of_the_lock(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("listen news")
    with ChannelLock("news", db):
        pass
    assert list(conn.notifies(timeout=0.3)) == []


def test_g7_a_channel_name_may_have_255_characters_of_any_kind(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    assert len(AWKWARD) == 255
    heard: Queue[str] = Queue()
    others = [ChannelLock(f"{AWKWARD[:-1]}{n}", db) for n in range(9)]
    lock = ChannelLock(AWKWARD, db, on_release=heard.put)
    for one in (lock, *others):
        assert one.acquire(timeout=5)
    assert conn.execute(
        "select is_held from perdure.leaders where channel = %s", [AWKWARD]
    ).fetchall() == [(True,)]
    lock.guard(conn)
    assert ChannelLock(AWKWARD, db).acquire(timeout=0) is False
    assert lock.release()
    assert heard.get(timeout=5) == AWKWARD


@pytest.mark.parametrize("channel", ["", "x" * 256, "a\nb", "a\x00b", None, 7])
def test_a_channel_that_is_no_name_is_refused_at_once(channel: Any) -> None:
    with pytest.raises(errors.InvalidName):
        ChannelLock(channel, "host=nowhere.invalid")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ttl": 0.2}, "ttl is 0.3 to 3600 seconds, got 0.2"),
        ({"ttl": float("nan")}, "ttl is 0.3"),
        ({"ttl": float("inf")}, "ttl is 0.3"),
        ({"retry": 0}, "retry is 0.02"),
        ({"retry": -1}, "retry is 0.02"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        ChannelLock("news", "host=nowhere.invalid", **settings)


# What the tests of PgIpLock assert, under their names ---------------------------------------------


def test_a4_constructor_keeps_the_channel_and_does_nothing(db: str) -> None:
    threads = threading.active_count()
    lock = ChannelLock("news", db)
    assert lock.channel == "news"
    assert (lock.epoch, lock.holder) == (None, None)
    assert repr(lock) == "<ChannelLock 'news', not acquired>"
    assert threading.active_count() == threads
    assert not ChannelLock.has_instances()


def test_a4_init_reapplies_the_handler_on_reuse(db: str) -> None:
    heard: Queue[str] = Queue()
    lock = ChannelLock("news", db)
    lock.on_release(heard.put)
    for _ in range(2):
        assert lock.acquire(timeout=5)
        lock.close()
        assert heard.get(timeout=5) == "news"


def test_a4_init_periodically_reacquires(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    other = start_lock(db)
    assert other.asks("acquire") == "True"
    acquired: Queue[int] = Queue()
    lock = ChannelLock("news", db, retry=0.1, on_acquire=acquired.put)
    lock.stand()
    assert not lock.acquire(timeout=0)
    assert not lock.acquire(timeout=0)  # the next of its periodic attempts
    assert not lock.is_acquired
    other.close()  # killed: of this nobody is told
    assert acquired.get(timeout=5) == lock.epoch == 2


def test_a4_is_acquired_reflects_the_state(db: str) -> None:
    lock = ChannelLock("news", db)
    states = [lock.is_acquired]
    lock.acquire()
    states.append(lock.is_acquired)
    lock.release()
    states.append(lock.is_acquired)
    assert states == [False, True, False]


def test_a4_acquire_is_true_when_free_and_false_when_busy(db: str) -> None:
    first, second = ChannelLock("news", db), ChannelLock("news", db)
    assert first.acquire(timeout=0)
    assert not second.acquire(timeout=0)
    began = time.monotonic()
    assert not second.acquire(timeout=0.4)
    assert time.monotonic() - began >= 0.4
    assert first.release()
    assert second.acquire(timeout=0)


def test_a4_release_makes_it_false_and_is_harmless_when_it_is_not_held(db: str) -> None:
    lock = ChannelLock("news", db)
    assert lock.release()
    lock.acquire()
    assert lock.release()
    assert not lock.is_acquired
    assert lock.release()


def test_a4_a_second_release_handler_raises(db: str) -> None:
    lock = ChannelLock("news", db)
    lock.on_release(print)
    with pytest.raises(RuntimeError, match="'news' has a release handler already"):
        lock.on_release(print)
    with pytest.raises(RuntimeError):
        ChannelLock("news", db, on_release=print).on_release(print)


def test_a4_release_all_skips_what_is_not_acquired_and_leaves_others_alone(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    other = start_lock(db, "theirs")
    assert other.asks("acquire") == "True"
    held = [ChannelLock(f"mine {n}", db) for n in range(3)]
    for lock in held:
        assert lock.acquire()
    refused = ChannelLock("theirs", db)
    assert not refused.acquire(timeout=0)
    assert ChannelLock.has_instances()
    assert ChannelLock.close_all()
    assert not ChannelLock.has_instances()
    assert not any(lock.is_acquired for lock in held)
    assert _held(conn) == ["theirs"]


def test_a4_destroy_of_one_leaves_the_others_working(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    one, another = ChannelLock("one", db), ChannelLock("another", db)
    assert one.acquire()
    assert another.acquire()
    assert one.close()
    assert _held(conn) == ["another"]
    assert another.is_acquired
    assert another.close()
    await_that(lambda: not _connections(conn))


def _held(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute("select channel from perdure.leaders where is_held order by 1").fetchall()
    return [channel for (channel,) in rows]


def _connections(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select pid from pg_stat_activity"
        " where datname = current_database() and application_name = 'perdure lock'"
    ).fetchall()


# More ---------------------------------------------------------------------------------------------


def test_two_locks_of_one_process_exclude_each_other_with_epochs_of_their_own(db: str) -> None:
    first, second = ChannelLock("news", db), ChannelLock("news", db)
    assert first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    epoch = first.epoch
    first.release()
    waiting.join(5)
    assert second.is_acquired
    assert second.epoch == (epoch or 0) + 1
    assert second.holder != first.holder


def test_who_acquired_it_has_to_acquire_it_again_once_it_is_lost(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    lost: Queue[int] = Queue()
    lock = ChannelLock("news", db, on_lost=lost.put)
    assert lock.acquire()
    _terminate(conn)
    assert lost.get(timeout=5) == 1
    assert ChannelLock("news", db).acquire(timeout=5)
    assert not lock.acquire(timeout=0)


def test_who_asks_while_it_is_being_given_back_gets_it_anew(db: str) -> None:
    lock = ChannelLock("news", db)
    for epoch in range(1, 11):
        assert lock.acquire(5)
        assert lock.epoch == epoch
        lock._seat.give_back()
        assert not lock.is_acquired
    lock.close()


def test_who_gives_up_and_asks_again_keeps_what_it_then_gets(db: str) -> None:
    lost: list[int] = []
    for n in range(20):
        lock = ChannelLock(f"news {n}", db, on_lost=lost.append)
        for wait in range(1, 1000):  # at some time an election is just under way
            if lock.acquire(timeout=wait / 2000):
                break
        assert lock.is_acquired
        lock.close()
    assert not lost


def test_who_stands_for_it_gets_it_again_under_another_epoch(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    acquired: Queue[int] = Queue()
    lock = ChannelLock("news", db, on_acquire=acquired.put)
    lock.stand()
    assert acquired.get(timeout=5) == 1
    _terminate(conn)
    assert acquired.get(timeout=5) == 2
    with pytest.raises(errors.Fenced):
        lock.guard(conn, epoch=1)
    lock.guard(conn)


def test_guard_keeps_others_out_until_the_transaction_ends(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    lock, other = ChannelLock("news", db), ChannelLock("news", db)
    with pytest.raises(errors.Fenced, match="is not held"):
        lock.guard(conn)
    assert lock.acquire()
    with conn.transaction():
        lock.guard(conn)
        assert lock.release()
        assert not other.acquire(timeout=0.5)
    assert other.acquire(timeout=5)


def test_a_holder_that_is_asked_to_resign_lets_another_win(
    db: str, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    first, second = start_lock(db), start_lock(db)
    first.say("stand")
    first.acquired()
    second.say("stand")
    assert second.asks("acquire 0") == "False"
    assert conn.execute("select perdure.request_resign('{news}')").fetchone() == (1,)
    assert first.expect("lost").split()[0] == "1"
    assert second.acquired()[0] == 2
    second.close()
    assert first.acquired()[0] == 3


def test_without_another_who_wants_it_the_holder_is_elected_again(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    acquired: Queue[int] = Queue()
    lock = ChannelLock("news", db, on_acquire=acquired.put)
    lock.stand()
    assert acquired.get(timeout=5) == 1
    conn.execute("select perdure.request_resign('{news}')")
    assert acquired.get(timeout=5) == 2


def test_g17_of_a_hundred_releases_a_hundred_are_heard_while_channels_come_and_go(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    """All locks here have one connection; each handler hears of its own channel."""
    heard: dict[str, Queue[str]] = {"news": Queue(), "olds": Queue()}
    locks = [ChannelLock(name, db, on_release=queue.put) for name, queue in heard.items()]
    for lock in locks:  # from the first try on it listens
        assert lock.acquire(timeout=5)
        assert lock.release()
        assert heard[lock.channel].get(timeout=5) == lock.channel
    is_over = threading.Event()
    turns = [0] * 9

    def come_and_go(number: int) -> None:
        with ChannelLock(f"another {number}", db) as another:
            while not is_over.is_set():
                another.release()
                assert another.acquire(timeout=5)
                turns[number] += 1
        another.close()

    threads = [threading.Thread(target=come_and_go, args=[number]) for number in range(len(turns))]
    for thread in threads:
        thread.start()
    await_that(lambda: min(turns) > 0)
    for number in range(100):
        _elect_and_resign(conn, "news")
        if number % 2:
            _elect_and_resign(conn, "olds")
    for name, amount in (("news", 100), ("olds", 50)):
        assert [heard[name].get(timeout=5) for _ in range(amount)] == [name] * amount
    is_over.set()
    for thread in threads:
        thread.join(20)
    assert len(_connections(conn)) == 1
    assert heard["news"].empty()
    assert heard["olds"].empty()
    assert sum(turns) > len(turns)


def _elect_and_resign(conn: psycopg.Connection[Any], channel: str) -> None:
    holder = uuid4()
    row = conn.execute("select epoch from perdure.elect(%s, %s)", [[channel], holder]).fetchone()
    assert row is not None
    resigned = "select is_resigned from perdure.resign(%s, %s, %s)"
    assert conn.execute(resigned, [[channel], holder, [row[0]]]).fetchone() == (True,)


def test_a_handler_that_is_slow_or_fails_costs_nobody_the_lock(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(epoch: int) -> None:
        time.sleep(1.5)
        raise RuntimeError(f"in epoch {epoch}")

    lost: list[int] = []
    lock = ChannelLock("news", db, on_acquire=fail, on_lost=lost.append)
    assert lock.acquire(timeout=5)
    await_that(lambda: "a handler of a channel lock failed" in caplog.text)
    assert lock.epoch == 1
    assert lost == []


def test_a_fork_holds_nothing_and_can_acquire_for_itself(db: str) -> None:
    lock = ChannelLock("news", db, on_release=lambda _: None)
    assert lock.acquire()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert not lock.is_acquired
            assert not ChannelLock.has_instances()
            assert not lock.acquire(timeout=0)
            assert ChannelLock("another", db).acquire(timeout=5)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    time.sleep(1.2)  # longer than it could last without being confirmed
    assert lock.epoch == 1


def test_a_fork_does_not_keep_the_lock_of_its_dead_parent(db: str) -> None:
    lock = ChannelLock("news", db)
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        mine = ChannelLock("news", db)
        mine.acquire()
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.write(writing, str(child).encode())
        time.sleep(60)
        os._exit(0)
    child = int(os.read(reading, 20))
    try:
        os.kill(parent, 9)
        os.waitpid(parent, 0)
        began = time.monotonic()
        assert lock.acquire(timeout=5)
        assert time.monotonic() - began < 0.7  # the time-to-live is a second
    finally:
        os.kill(child, 9)
        for end in (reading, writing):
            os.close(end)


def _terminate(conn: psycopg.Connection[Any]) -> None:
    assert conn.execute(
        "select bool_and(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name = 'perdure lock'"
    ).fetchone() == (True,)


def test_many_threads_take_turns(db: str) -> None:
    """What the lock protects is a plain variable: it shows a second one inside."""
    inside = 0
    most = 0
    turns: list[int] = []

    def take_turns() -> None:
        nonlocal inside, most
        lock = ChannelLock("news", db)
        for _ in range(3):
            with lock:
                inside += 1
                most = max(most, inside)
                turns.append(lock.epoch or 0)
                time.sleep(0.01)
                inside -= 1
        lock.close()

    threads = [threading.Thread(target=take_turns) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert turns == sorted(set(turns))
    assert len(turns) == 12


def test_callbacks_and_settings_are_typed(db: str) -> None:
    handler: Callable[[str], object] = print
    ChannelLock("news", db, ttl=2, retry=1, name="me", on_release=handler)
