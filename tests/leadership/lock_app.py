"""A program that stands for a channel: does what stdin says, prints what happens, and when.

Times are of the monotonic clock, which all processes of one system share.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from uuid import UUID

import psycopg

from perdure import ChannelLock, errors

# What a shell starts in the background is born with this one ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHANNEL = sys.argv[1]
OPTIONS = dict(option.split("=", 1) for option in sys.argv[2:])


def say(*what: object) -> None:
    line = " ".join(map(str, (*what, time.monotonic())))
    sys.stdout.write(f"{line}\n")  # in one piece: several threads do
    sys.stdout.flush()


def answer(what: object) -> None:
    say("=", what)


def acquired(epoch: int) -> None:
    if "listen" in OPTIONS:
        threading.Thread(target=receive, args=[OPTIONS["listen"]], daemon=True).start()
    say("acquired", epoch, lock.holder)


def receive(channel: str) -> None:
    with psycopg.connect(autocommit=True) as conn:
        conn.execute(f'listen "{channel}"')
        say("listening")
        for notification in conn.notifies():
            if not lock.is_acquired:
                return
            say("message", notification.payload)


def write(holder: UUID, epoch: int) -> str:
    """What a leader writes: into the table of the test, under guard."""
    try:
        with psycopg.connect() as conn:
            conn.execute("select perdure.guard(%s, %s, %s)", [CHANNEL, holder, epoch])
            conn.execute("insert into written values (%s, %s)", [epoch, holder])
    except psycopg.Error as error:
        return f"refused {error.sqlstate}"
    return "written"


lock = ChannelLock(
    CHANNEL,
    "",
    ttl=float(OPTIONS.get("ttl", 1)),
    retry=float(OPTIONS.get("retry", 0.25)),
    on_acquire=acquired,
    on_lost=lambda epoch: say("lost", epoch),
    on_release=lambda channel: say("released", channel),
)
if "signals" in OPTIONS:
    ChannelLock.release_on_signals(float(OPTIONS["signals"]))

say("ready")
for line in sys.stdin:
    command, *given = line.split()
    match command:
        case "stand":
            lock.stand()
        case "acquire":
            try:
                answer(lock.acquire(float(given[0]) if given else None))
            except errors.PerdureError as error:
                answer(type(error).__name__)
        case "release":
            answer(lock.release())
        case "close":
            answer(lock.close())
        case "believes":
            answer(lock.epoch)
        case "write":
            answer(write(UUID(given[0]), int(given[1])))
        case "sleep":
            time.sleep(float(given[0]))
        case "handle":  # SIGTERM by itself, from now on
            signal.signal(signal.SIGTERM, lambda *_: say("handled"))
            answer("handles")
        case "block":  # in a call that neither runs Python nor ends on a signal
            mutex = ctypes.create_string_buffer(256)
            system = ctypes.CDLL(None)
            system.pthread_mutex_lock(mutex)
            answer("blocked")
            system.pthread_mutex_lock(mutex)
        case "query":
            with psycopg.connect(autocommit=True) as conn:
                conn.execute(" ".join(given).encode())
