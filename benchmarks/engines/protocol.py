"""What the benchmark asks of an engine: one program each, run by the engine's own Python.

Nothing but the standard library is imported here, for each peer lives in an environment of its own.

    program install DSN               creates its schema in an empty database
    program describe DSN              prints one JSON object: {"version", "settings", "unfinished"}
    program enqueue DSN WHAT HOW N    enqueues N of WHAT; prints {"seconds"} of the calls alone, and
                                      where it can {"ended"}, when that was, and {"cpu"} seconds
    program work DSN OPTIONS          works until SIGTERM
    program send DSN                  enqueues one `stamp` per line on stdin, prints when

`unfinished` is SQL that gives one boolean: whether anything is left to do. It has to be cheap, it
is asked often. Times are CLOCK_MONOTONIC, which all processes of one machine share.

`finalized`, where an engine has trees, is SQL that counts the parents that have been finalized.

WHAT: `noop`, `chain` (each 10 steps, one after the other), `tree` (see OPTIONS), `loop`.
HOW: `one` (each call its own transaction), `bulk` (the engine's way for many), `transaction` (one
by one in one transaction of the caller's); None where the engine has no such thing.
Whatever an engine cannot do raises Unsupported: the table then says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from typing import Any


class Unsupported(Exception):  # noqa: N818
    """The engine has no such thing."""


class Engine:
    """One engine. Subclasses fill in what they can do."""

    name = "?"

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def install(self) -> None:
        """Creates the schema in an empty database."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Version, settings that were chosen for speed, and the SQL of `unfinished`."""
        raise NotImplementedError

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        """Enqueues; returns the seconds that the calls took, connecting not included."""
        raise Unsupported

    def work(self, options: dict[str, Any]) -> None:
        """Works until SIGTERM. Bodies call `begun` (no-ops) or `stamped` (latency)."""
        raise Unsupported

    def sender(self) -> Any:
        """A callable that enqueues one `stamp` in a transaction of its own, committed."""
        raise Unsupported


_has_begun = threading.Event()


def begun() -> None:
    """To be called by every no-op body; costs next to nothing after the first time."""
    if not _has_begun.is_set():
        _has_begun.set()
        print(json.dumps({"begun": time.monotonic()}), flush=True)


def stamped() -> None:
    """To be called by every body of `stamp`: when it began."""
    print(json.dumps({"stamped": time.monotonic()}), flush=True)


def main(kind: type[Engine]) -> None:
    """The command line of an engine's program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["install", "describe", "enqueue", "work", "send"])
    parser.add_argument("dsn")
    parser.add_argument("what", nargs="?", default="noop")
    parser.add_argument("how", nargs="?", default="bulk")
    parser.add_argument("count", nargs="?", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={}, help="a JSON object")
    given = parser.parse_args()
    engine = kind(given.dsn)
    try:
        match given.command:
            case "install":
                engine.install()
            case "describe":
                print(json.dumps(engine.describe()))
            case "enqueue":
                before = time.process_time()
                seconds = engine.enqueue(given.what, given.how, given.count, given.options)
                told = {"seconds": seconds, "ended": time.monotonic()}
                print(json.dumps(told | {"cpu": time.process_time() - before}), flush=True)
            case "work":
                engine.work(given.options)
            case "send":
                _send(engine)
    except Unsupported as error:
        print(json.dumps({"unsupported": str(error) or kind.name}))
        sys.exit(3)


def _send(engine: Engine) -> None:
    send = engine.sender()
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        called = time.monotonic()
        send()
        print(json.dumps({"called": called, "committed": time.monotonic()}), flush=True)
