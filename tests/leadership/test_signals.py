"""What signals do to a process that has locks: nothing, unless it asked for it."""

from __future__ import annotations

import os
import signal
from typing import Any

import psycopg
import pytest

from fix_locks import StartLock
from fix_machines import OwnServer, Proxy, await_that

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGABRT]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("busy", ["believes", "sleep 60"])
def test_g6_a_signal_releases_once_and_the_process_exits_with_0(
    number: signal.Signals,
    busy: str,
    db: str,
    start_lock: StartLock,
    conn: psycopg.Connection[Any],
) -> None:
    other = start_lock(db)
    holder = start_lock(db, "news", "signals=1")
    assert holder.asks("acquire") == "True"
    other.say("stand")
    assert other.asks("acquire 0") == "False"
    holder.say(busy)
    holder.send(number)
    assert holder.join(within=5) == 0
    other.acquired(within=5)
    other.expect("released")
    assert [line.split()[0] for line in other.told].count("released") == 1
    row = conn.execute("select holder, epoch from perdure.leader").fetchone()
    assert row is not None
    assert row[1] == 2
    assert holder.errors() == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_g6_no_call_of_the_main_thread_holds_it_up(
    number: signal.Signals, db: str, start_lock: StartLock
) -> None:
    other = start_lock(db)
    holder = start_lock(db, "news", "signals=0.2")
    assert holder.asks("acquire") == "True"
    other.say("stand")
    assert other.asks("acquire 0") == "False"
    assert holder.asks("block") == "blocked"
    holder.send(number)
    other.acquired(within=5)
    assert holder.join(within=5) == 0
    assert holder.errors() == ""


@pytest.mark.parametrize("number", SIGNALS)
def test_g6_it_exits_with_1_when_the_release_fails(
    number: signal.Signals, private_db: str, start_lock: StartLock, proxied: Proxy
) -> None:
    holder = start_lock(proxied.dsn, "news", "signals=0.3")
    assert holder.asks("acquire") == "True"
    proxied.fall_silent()
    holder.send(number)
    assert holder.join(within=5) == 1


def test_g6_a_second_signal_ends_it_at_once(
    private_db: str, start_lock: StartLock, proxied: Proxy
) -> None:
    holder = start_lock(proxied.dsn, "news", "signals=60", "ttl=60")
    assert holder.asks("acquire") == "True"
    proxied.fall_silent()
    holder.send(signal.SIGTERM)
    asked = proxied.asked
    await_that(lambda: proxied.asked > asked)  # the resignation is on its way
    holder.send(signal.SIGTERM)
    assert holder.join(within=5) == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_g6_nothing_is_hooked_unless_asked_for(
    number: signal.Signals, db: str, start_lock: StartLock
) -> None:
    holder = start_lock(db)
    assert holder.asks("acquire") == "True"
    holder.send(number)
    assert holder.join(within=5) != 0
    other = start_lock(db)
    assert other.asks("acquire 5") == "True"
    assert "released" not in " ".join(other.told)


def test_g6_a_handler_that_is_installed_later_wins(db: str, start_lock: StartLock) -> None:
    holder = start_lock(db, "news", "signals=0.2")
    assert holder.asks("acquire") == "True"
    assert holder.asks("handle") == "handles"
    holder.send(signal.SIGTERM)
    holder.expect("handled")
    assert start_lock(db).asks("acquire 0.5") == "False"
    assert holder.asks("believes") == "1"
    holder.send(signal.SIGINT)
    assert holder.join(within=5) == 0


def test_g6_in_an_event_loop_too(db: str, start_async_lock: Any) -> None:
    holder = start_async_lock(db)
    holder.expect("acquired")
    os.kill(holder.pid, signal.SIGTERM)
    assert holder.join(within=5) == 0
    assert "lost" not in " ".join(holder.told)


@pytest.fixture
def proxied(private_server: OwnServer, private_db: str, start_proxy: Any) -> Proxy:
    proxy: Proxy = start_proxy(private_db)
    return proxy
