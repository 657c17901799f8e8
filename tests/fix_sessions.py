"""Sessions of their own, each with a thread, so that one can be left waiting for another."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import psycopg

from fix_engine import Engine

P = ParamSpec("P")
T = TypeVar("T")

_PATIENCE = 20.0


class Session(Engine):
    """The engine over a session of its own; what is begun in it can be looked at while it waits."""

    def __init__(self, dsn: str) -> None:
        super().__init__(psycopg.connect(dsn, autocommit=True))
        self._thread = ThreadPoolExecutor(1)

    @property
    def pid(self) -> int:
        return self.conn.info.backend_pid

    def later(self, call: Callable[P, T], /, *given: P.args, **named: P.kwargs) -> Future[T]:
        """Begin a call in this session's thread."""
        return self._thread.submit(call, *given, **named)

    def close(self) -> None:
        self._thread.shutdown()
        self.conn.close()


class Sessions:
    """Opens sessions, and watches them from one more."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._watch = psycopg.connect(dsn, autocommit=True)
        self._opened: list[Session] = []

    def open(self) -> Session:
        session = Session(self._dsn)
        self._opened.append(session)
        return session

    def is_waiting(self, session: Session) -> bool:
        """Whether the session waits for a lock that another one holds."""
        row = self._watch.execute(
            "select cardinality(pg_blocking_pids(%s)) > 0", [session.pid]
        ).fetchone()
        assert row
        return bool(row[0])

    def await_waiting(self, session: Session, call: Future[Any]) -> None:
        """Return when the call waits for another session's lock."""
        end = time.monotonic() + _PATIENCE
        while not self.is_waiting(session):
            assert not call.done(), f"it did not wait: {call.result()}"
            assert time.monotonic() < end, "it neither waited nor ended"
            time.sleep(0.002)

    def close(self) -> None:
        for session in self._opened:
            session.close()
        self._watch.close()


def done(call: Future[T]) -> T:
    return call.result(timeout=_PATIENCE)
