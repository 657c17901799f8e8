"""Leadership through PgBouncer in transaction mode, which is found out, not configured."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable
from queue import Queue
from typing import Any

import psycopg

from fix_locks import LockProgram, StartLock
from fix_machines import Pooler, await_that
from perdure import ChannelLock

LEASE = 3.0  # of a time-to-live of one second


def test_g20_behind_a_pooler_a_lock_is_a_lease(
    db: str, pooler: Pooler, conn: psycopg.Connection[Any]
) -> None:
    with ChannelLock("news", pooler.dsn(db)) as lock:
        assert lock.is_pooled
        row = conn.execute("select mode, is_held, epoch from perdure.leaders").fetchone()
        assert row == ("lease", True, lock.epoch)
        first = _expiry(conn)
        await_that(lambda: _expiry(conn) > first, within=LEASE)  # it is renewed
        lock.guard(conn)
        assert _session_locks(conn) == 0
    with ChannelLock("news", db) as lock:
        assert not lock.is_pooled
        assert lock.epoch == 2


def test_g20_session_and_lease_exclude_each_other(
    db: str, pooler: Pooler, conn: psycopg.Connection[Any]
) -> None:
    direct, pooled = ChannelLock("news", db), ChannelLock("news", pooler.dsn(db))
    for first, second in ((direct, pooled), (pooled, direct)):
        assert first.acquire(timeout=5)
        assert not second.acquire(timeout=0.6)
        assert first.release()
        assert second.acquire(timeout=5)
        assert not first.acquire(timeout=0.6)
        assert second.release()
    assert conn.execute("select epoch from perdure.leader").fetchone() == (4,)


def test_g20_after_sigkill_of_a_lease_holder_another_leads_within_the_lease(
    db: str, pooler: Pooler, start_lock: StartLock
) -> None:
    first, second = (start_lock(pooler.dsn(db)) for _ in range(2))
    assert first.asks("acquire") == "True"
    assert second.asks("acquire 0") == "False"
    second.say("stand")
    killed = time.monotonic()
    first.close()
    epoch, _, began = second.acquired()
    assert epoch == 2
    assert began < killed + LEASE + 0.5


def test_g20_a_release_through_the_pooler_is_heard_by_those_with_a_direct_connection(
    db: str, pooler: Pooler
) -> None:
    heard: Queue[str] = Queue()
    own: Queue[str] = Queue()
    pooled = ChannelLock("news", pooler.dsn(db), on_release=own.put)
    assert pooled.acquire(timeout=5)
    began: Queue[float] = Queue()
    direct = ChannelLock(
        "news",
        db,
        retry=5,
        on_release=heard.put,
        on_acquire=lambda _: began.put(time.monotonic()),
    )
    direct.stand()
    assert not direct.acquire(timeout=0)
    released = time.monotonic()
    assert pooled.release()
    assert heard.get(timeout=5) == own.get(timeout=5) == "news"
    assert began.get(timeout=5) - released < 2  # of no use would have been: ask again in 5 s


def test_g20_while_the_pooler_restarts_there_are_never_two(
    db: str, pooler: Pooler, start_lock: StartLock, conn: psycopg.Connection[Any]
) -> None:
    programs = [start_lock(pooler.dsn(db)) for _ in range(3)]
    programs.append(start_lock(db))
    for program in programs:
        program.say("stand")
    await_that(lambda: _spells(programs))
    for _ in range(2):
        time.sleep(0.5)
        pooler.kill()
        time.sleep(0.5)
        pooler.start()
        await_that(lambda: [p for p in programs if p.asks("believes") != "None"])
    for program in programs:
        program.say("close")
    await_that(lambda: not _is_held(conn))
    spells = sorted(_spells(programs))
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(spells))


def test_g20_who_holds_a_lease_is_asked_to_resign_and_does(
    db: str, pooler: Pooler, conn: psycopg.Connection[Any]
) -> None:
    acquired: Queue[int] = Queue()
    lock = ChannelLock("news", pooler.dsn(db), on_acquire=acquired.put)
    lock.stand()
    assert acquired.get(timeout=5) == 1
    other = ChannelLock("news", db)
    assert not other.acquire(timeout=0)
    assert conn.execute("select perdure.request_resign('{news}')").fetchone() == (1,)
    assert other.acquire(timeout=LEASE)
    assert other.release()
    assert acquired.get(timeout=LEASE) == 3


def _spells(programs: Iterable[LockProgram]) -> list[tuple[float, float]]:
    """From when to when each of them led, by the clock that they share."""
    spells = []
    for program in programs:
        began = None
        for line in list(program.told):
            if line.startswith("acquired"):
                began = float(line.split()[-1])
            elif began is not None and re.match(r"lost|= True", line):
                spells.append((began, float(line.split()[-1])))
                began = None
        if began is not None:
            spells.append((began, float("inf")))
    return spells


def _expiry(conn: psycopg.Connection[Any]) -> Any:
    row = conn.execute("select expires_at from perdure.leaders").fetchone()
    assert row
    return row[0]


def _is_held(conn: psycopg.Connection[Any]) -> bool:
    return bool(conn.execute("select from perdure.leaders where is_held").fetchall())


def _session_locks(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select cardinality(perdure._locked_keys())").fetchone()
    assert row
    return int(row[0])
