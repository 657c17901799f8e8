"""A connection for a thread of its own: a deadline for each statement, and ears.

What has to stay alive beside busy bodies (a worker's life, leadership) runs in threads, each over
one of these. No statement waits longer than it may, whatever the network does; notifications are
heard while waiting; another thread can interrupt the wait. Whether a pooler stands in between is
found out when it opens: behind one there are no session locks and no notifications.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import pq

from perdure import _calls, _dsn, _schema
from perdure._client_sync import send_replanned
from perdure.errors import CannotConnect, HotStandby

if TYPE_CHECKING:
    from collections.abc import Generator

    from perdure._calls import Call, Ears

T = TypeVar("T")

_PROBE = 2.0  # seconds within which a notification to oneself arrives, else none ever will
_LEAST_CONNECT_TIMEOUT = 2  # libpq takes a smaller one for this


@dataclass(frozen=True, slots=True)
class Event:
    """One notification of the engine; None where it is about any queue or channel."""

    event: str
    purpose: str | None = None
    channels: list[str] | None = None
    queues: list[str] | None = None
    items: int | None = None  # how many may be claimed, where that is known

    def is_about(self, channel: str) -> bool:
        return self.channels is None or channel in self.channels


def _event(payload: str) -> Event | None:
    """What a payload says; None for one that is not the engine's: anybody may notify."""
    try:
        told = json.loads(payload)
    except ValueError:
        return None
    if not isinstance(told, dict) or not isinstance(told.get("event"), str):
        return None
    purpose = told.get("purpose")
    if not isinstance(purpose, str | None):
        return None
    items = told.get("items")
    is_number = type(items) is int and 0 <= items < 1 << 31  # JSON knows no bounds
    return Event(
        told["event"],
        purpose,
        _names(told.get("channels")),
        _names(told.get("queues")),
        items if is_number else None,
    )


def _names(told: object) -> list[str] | None:
    return [name for name in told if isinstance(name, str)] if isinstance(told, list) else None


class _Connection(psycopg.Connection[Any]):
    """Hangs up when the deadline passes: what was asked may have been done, or may be yet."""

    deadline = float("inf")

    def wait(self, gen: Generator[Any, Any, T], *_: Any, **__: Any) -> T:
        poll = select.poll()
        try:
            wanted = next(gen)
            while True:
                poll.register(self.pgconn.socket, _interest(wanted))
                left = self.deadline - time.monotonic()
                answer = poll.poll(None if left == float("inf") else max(0.0, left) * 1000)
                if not answer:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("no answer in time")
                wanted = gen.send(_readiness(answer[0][1]))
        except StopIteration as end:
            value: T = end.value
            return value

    def forget(self) -> None:
        """Closes this process's copy of the socket, without a word to the server."""
        if not self.closed:
            os.close(self.fileno())
            self._closed = True


def _interest(wanted: int) -> int:
    """In the words of poll: psycopg says 1 for reading, 2 for writing."""
    return (select.POLLIN if wanted & 1 else 0) | (select.POLLOUT if wanted & 2 else 0)


def _readiness(found: int) -> int:
    failed = found & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
    return (1 if found & select.POLLIN or failed else 0) | (2 if found & select.POLLOUT else 0)


class Direct:
    """Opened and used by one thread; `wake` may be called by any."""

    def __init__(
        self,
        dsn: str | None,
        name: str,
        *,
        ttl: float,
        patience: float | None = None,
        ears: Ears | None = "perdure",
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._ttl = ttl
        self._patience = ttl if patience is None else patience
        self._ears = ears
        self._connection: _Connection | None = None
        self._heard: deque[Event] = deque()
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        self.is_pooled = False
        self.patience = self._patience  # how long the server lets the session be silent
        self._way: tuple[str, int, str, str] | None = None
        _opened.add(self)

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def open(self) -> None:
        """Connects, finds out what it is connected to, listens where that is of use."""
        self.hang_up()
        if self._way is not None:
            _hearing.discard(self._way)
        dsn = _dsn.complete(
            _dsn.resolve(self._dsn),
            self._name,
            connect_timeout=max(_LEAST_CONNECT_TIMEOUT, round(self._ttl)),
            tcp_user_timeout=round(self._ttl * 1000),
        )
        try:
            self._connection = _Connection.connect(dsn, autocommit=True)
        except psycopg.OperationalError as error:
            raise CannotConnect(f"cannot connect to the database: {error}") from error
        try:
            self._probe(self._connection)
        except BaseException:
            self.hang_up()
            raise

    def _probe(self, connection: _Connection) -> None:
        connection.deadline = time.monotonic() + max(_PROBE, self._ttl)
        connection.prepare_threshold = None
        try:
            found = self.run(_calls.hello())
        except _schema.NOT_INSTALLED:
            raise _schema.not_installed() from None
        _schema.judge_version(found.version)
        if found.is_standby:
            raise HotStandby(
                "this server is a hot standby: nobody can lead or work here",
                hint="connect to the primary: target_session_attrs=read-write",
            )
        # a pooler makes up the number that the client gets at its start
        self.is_pooled = found.backend != connection.info.backend_pid
        if self._ears is not None and not self.is_pooled:
            connection.add_notify_handler(self._hear)
            self.run(_calls.limit_session(self._ttl, self._patience))
            self.patience = self._patience
            with contextlib.suppress(psycopg.errors.InvalidParameterValue):  # not on every system
                self.run(_calls.watch_client(self._ttl / 4))
            self.run(_calls.listen(self._ears))
            info = connection.info
            self._way = (info.host, info.port, info.user, info.dbname)
            hears = self._way in _hearing or self._hears_itself(self._ears)
            if hears:
                _hearing.add(self._way)
            self.is_pooled = not hears
        if not self.is_pooled:
            connection.prepare_threshold = 5

    def _hears_itself(self, ears: Ears) -> bool:
        self.run(_calls.notify(ears, "probe"))
        give_up = time.monotonic() + _PROBE
        heard: list[Event] = []
        while (left := give_up - time.monotonic()) > 0:
            heard += self.wait(left)
            if any(event.event == "probe" for event in heard):
                self._heard.extend(heard)
                return True
        return False

    def run(self, call: Call[T], within: float | None = None) -> T:
        """Sends a call and waits for its answer, for `within` seconds; then it hangs up."""
        assert self._connection is not None
        if within is not None:
            self._connection.deadline = time.monotonic() + within
        return send_replanned(self._connection, call)

    def wait(self, timeout: float) -> list[Event]:
        """What was heard, as soon as anything was; nothing after `timeout` seconds or `wake`.

        OperationalError when the server has hung up.
        """
        if not self._heard:
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            if self._connection is not None and not self._connection.closed:
                poll.register(self._connection.pgconn.socket, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, timeout) * 1000)}
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            if ready - {self._woken}:
                self._listen_in()
        heard = list(self._heard)
        self._heard.clear()
        return heard

    def _listen_in(self) -> None:
        assert self._connection is not None
        pgconn = self._connection.pgconn
        encoding = self._connection.info.encoding  # the DSN may name another than UTF-8
        pgconn.consume_input()
        while (notify := pgconn.notifies()) is not None:
            payload = notify.extra.decode(encoding, "replace")
            self._hear(psycopg.Notify(notify.relname.decode(encoding), payload, notify.be_pid))
        if pgconn.status != pq.ConnStatus.OK:
            raise psycopg.OperationalError("the server has hung up")

    def _hear(self, notify: psycopg.Notify) -> None:
        event = _event(notify.payload)
        if event is not None:
            self._heard.append(event)

    def wake(self) -> None:
        """Ends a wait of the thread that uses this, at once."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._waker, b"!")

    def hang_up(self) -> None:
        """Closes the connection, if there is one; it can be opened again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def forget(self) -> None:
        """In a forked process: closes the copies of what the parent has open, says no word.

        Else its session would survive it, and with that its life and its leadership.
        """
        if self._connection is not None:
            self._connection.forget()
            self._connection = None
        self._close_pipe()

    def _close_pipe(self) -> None:
        ends, self._woken, self._waker = (self._woken, self._waker), -1, -1
        for end in ends:
            if end >= 0:
                os.close(end)

    def close(self) -> None:
        """For good."""
        self.hang_up()
        self._close_pipe()


_opened: weakref.WeakSet[Direct] = weakref.WeakSet()

# Hosts, ports, users and databases by which notifications came through: a probe wakes all who
# listen, so it is not repeated until a connection there was lost.
_hearing: set[tuple[str, int, str, str]] = set()


def _forget_all() -> None:
    for direct in list(_opened):
        direct.forget()


os.register_at_fork(after_in_child=_forget_all)
