"""The election thread: what it costs, and the ways to wait for it."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from queue import Queue
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from fix_machines import await_that
from perdure import AsyncChannelLock, ChannelLock, _calls, _client_sync, errors
from perdure._direct import Direct
from perdure._election import Election


def test_50_channels_take_one_connection_and_at_most_20_statements_a_second(
    db: str, conn: psycopg.Connection[Any]
) -> None:
    locks = [ChannelLock(f"channel {n}", db) for n in range(50)]
    theirs = [ChannelLock(f"channel {n}", db, name="another") for n in range(0, 50, 2)]
    for lock in theirs:
        assert lock.acquire(timeout=10)
    for lock in locks:
        lock.stand()
    await_that(lambda: sum(lock.is_acquired for lock in locks) == 25)
    for lock in theirs:
        lock.stand()
    sessions = "select count(*) from pg_stat_activity where application_name = 'perdure lock'"
    assert conn.execute(f"{sessions} and datname = current_database()").fetchone() == (2,)
    next_xid = "select pg_snapshot_xmax(pg_current_snapshot())"
    unchanged = conn.execute(next_xid).fetchone()
    before = _transactions(conn)
    time.sleep(3)
    after = _transactions(conn)
    # two processes' worth of it: both confirm three times a second, both poll four times
    assert (after - before) / (3 + 1.1) / 2 < 20
    assert conn.execute(next_xid).fetchone() == unchanged  # nothing was written
    assert sum(lock.is_acquired for lock in locks) == 25


def test_a_fleet_of_candidates_says_little_and_still_takes_over(
    db: str, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 12
    for n in range(size):  # as many workers as there are candidates
        conn.execute("select perdure.register_worker(%s, '{mail}')", [f"worker {n}"])
    refused: set[int] = set()

    def note(number: int, _: str) -> None:
        refused.add(number)

    fleet = [
        Election(
            db,
            name=f"candidate {n}",
            purpose="sweep",
            on_refused=partial(note, n),
        )
        for n in range(size)
    ]
    for election in fleet:
        election.stand(["mail"])

    def epoch() -> int:
        return max(election.lead("mail") or 0 for election in fleet)

    await_that(lambda: epoch() == 1 and len(refused) >= size - 1)
    said = []
    real = _client_sync.send

    def send(connection: Any, call: Any) -> Any:
        said.append(call.statement)
        return real(connection, call)

    monkeypatch.setattr(_client_sync, "send", send)
    seconds = 3
    time.sleep(seconds)
    # the leader is confirmed three times a second, each of the others asks hardly more than once
    assert 2 * seconds < len(said) < (3 + 1.3 * size) * seconds
    find = "select backend from perdure.leaders where channel = 'mail'"
    row = conn.execute(find).fetchone()
    assert row
    conn.execute("select pg_terminate_backend(%s)", [row[0]])
    await_that(lambda: epoch() > 1)
    for election in fleet:
        election.close()


def test_who_leads_nothing_need_not_be_heard_of(db: str, conn: psycopg.Connection[Any]) -> None:
    said = (
        "select query_start from pg_stat_activity where application_name = 'perdure lock'"
        " and datname = current_database() order by backend_start desc limit 1"
    )

    def last() -> Any:
        return conn.execute(said).fetchone()

    leader = ChannelLock("news", db)
    assert leader.acquire(timeout=10)
    refused = threading.Event()
    candidate = Election(db, name="another", retry=3600, on_refused=lambda _: refused.set())
    candidate.stand(["news"])
    assert refused.wait(10)
    asked_at = last()
    time.sleep(2)  # two times-to-live
    assert last() == asked_at
    assert leader.release()
    await_that(lambda: candidate.lead("news"))
    led_since = last()
    await_that(lambda: last() != led_since, within=0.9)
    assert candidate.close()


def test_what_was_won_too_late_to_believe_it_is_won_again(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the server would keep it for one who does nothing with it, for ever."""
    stalls = [1.75]  # longer than an answer is worth, shorter than the server waits
    real = Direct.run

    def run(self: Direct, call: Any, within: float | None = None) -> Any:
        answer = real(self, call, within)
        if "perdure.elect(" in call.statement and stalls:
            time.sleep(stalls.pop())
        return answer

    monkeypatch.setattr(Direct, "run", run)
    election = Election(db, name="slow", ttl=2)
    election.stand(["news"])
    await_that(lambda: election.lead("news"))
    assert stalls == []
    assert election.close()


def test_the_statement_by_which_one_wins_limits_its_silence(db: str) -> None:
    setting = _calls.Call("select current_setting('idle_session_timeout')", [], lambda rows: rows)
    sessions = [Direct(db, "one", ttl=1, patience=10, ears="perdure_leadership") for _ in range(2)]
    try:
        for session in sessions:
            session.open()
            session.run(_calls.elect(["news"], uuid4(), "session", 1.5, "lock", "one"))
        winner, refused = (session.run(setting) for session in sessions)
        assert (winner, refused) == ([("1500ms",)], [("10s",)])
    finally:
        for session in sessions:
            session.close()


def _transactions(conn: psycopg.Connection[Any]) -> int:
    time.sleep(1.1)  # sessions hand in their counts once a second
    row = conn.execute(
        "select xact_commit + xact_rollback from pg_stat_database"
        " where datname = current_database()"
    ).fetchone()
    assert row
    return int(row[0])


def test_an_election_of_many_channels_is_one_call(db: str) -> None:
    changes: Queue[tuple[str, int | None]] = Queue()
    election = Election(db, name="me", on_change=lambda *told: changes.put(told))
    channels = [f"channel {n}" for n in range(50)]
    election.stand(channels)
    for _ in channels:
        changes.get(timeout=5)
    assert all(election.lead(channel) == 1 for channel in channels)
    assert election.withdraw(channels[:10]).result(timeout=2)
    assert [election.lead(channel) for channel in channels[8:12]] == [None, None, 1, 1]
    assert election.close()
    assert changes.qsize() == 50
    with pytest.raises(RuntimeError, match="closed"):
        election.stand(["x"])


def test_an_election_that_never_stood_closes(db: str) -> None:
    election = Election(db, name="me")
    assert election.withdraw(["news"]).result(timeout=1)
    assert election.close()


def test_a_callback_that_fails_does_not_end_an_election(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("mine")

    election = Election(db, name="me", on_change=fail)
    election.stand(["news"])
    await_that(lambda: election.lead("news") == 1)
    assert election.close()
    assert "a callback of the election of me failed" in caplog.text


def test_who_stalls_does_not_believe_afterwards(db: str) -> None:
    """A thread that comes too late to confirm: as after a frozen process, or a long pause."""
    ended = threading.Event()
    changes: list[int | None] = []

    def stall(_: str, epoch: int | None) -> None:
        changes.append(epoch)
        if epoch == 1:
            time.sleep(1.5)
            ended.set()

    election = Election(db, name="me", on_change=stall)
    election.stand(["news"])
    await_that(lambda: election.lead("news") == 1)
    await_that(lambda: election.lead("news") is None, within=1.2)
    assert ended.wait(5)
    await_that(lambda: election.lead("news") == 2)
    election.close()
    assert changes == [1, None, 2, None]


async def test_an_async_lock_does_what_the_blocking_one_does(
    db: str, aconn: psycopg.AsyncConnection[Any]
) -> None:
    told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

    async def acquired(epoch: int) -> None:
        await told.put(("acquired", epoch))

    lock = AsyncChannelLock(
        "news",
        db,
        on_acquire=acquired,
        on_release=lambda channel: told.put_nowait(("released", channel)),
        on_lost=lambda epoch: told.put_nowait(("lost", epoch)),
    )
    other = AsyncChannelLock("news", db)
    with pytest.raises(errors.Fenced):
        await lock.guard(aconn)
    async with lock:
        assert lock.is_acquired
        assert await lock.acquire()
        assert await told.get() == ("acquired", 1)
        assert not await other.acquire(timeout=0)
        assert not await other.acquire(timeout=0.3)
        await lock.guard(aconn)
    assert await told.get() == ("released", "news")
    waiting = asyncio.create_task(other.acquire())
    assert await waiting
    assert await other.close()
    await lock.stand()
    assert await lock.acquire(timeout=5)
    await aconn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'perdure lock'"
    )
    seen = [await asyncio.wait_for(told.get(), 5) for _ in range(4)]
    assert seen == [("released", "news"), ("acquired", 3), ("lost", 3), ("acquired", 4)]
    assert await lock.close()


async def test_a_cancelled_acquire_leaves_nothing_behind(
    db: str, aconn: psycopg.AsyncConnection[Any]
) -> None:
    lock, other = AsyncChannelLock("news", db), AsyncChannelLock("news", db)
    assert await lock.acquire()
    waiting = asyncio.create_task(other.acquire())
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await lock.release()
    await asyncio.sleep(0.6)
    assert not other.is_acquired
    assert await lock.acquire(timeout=0)


async def test_a_busy_event_loop_does_not_lose_its_lock(db: str) -> None:
    async with AsyncChannelLock("news", db) as lock:
        epoch = lock.epoch
        give_up = time.monotonic() + 2
        while time.monotonic() < give_up:
            sum(range(1000))
        assert lock.epoch == epoch


@pytest.fixture
async def aconn(db: str) -> Any:
    async with await psycopg.AsyncConnection.connect(db, autocommit=True) as conn:
        yield conn
