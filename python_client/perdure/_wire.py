"""Statements that a worker sends again and again: prepared once, over a socket watched all along.

What `AsyncConnection` does for each statement (a cursor, adapters, a lock, watching the socket and
leaving it again) takes twice as long as all else in a small exchange. Here a call is sent at once
and answered by a future; the next one may be sent before that (libpq's pipeline mode), so that the
server goes on without waiting for anybody. Each call is a transaction of its own, and the order of
calls is that of their answers. The connection stays psycopg's: when nothing is under way, anything
else may be run on it, inside `aside`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from psycopg.pq.abc import PGresult

    from perdure._calls import RawCall

_PATIENCE = 2.0  # with a request to cancel
_AGAIN = 0.1
_WELL = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class Wire:
    """Belongs to one connection and to the event loop in which it was made."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._names: dict[str, bytes] = {}  # of what is prepared
        self._answers: deque[asyncio.Future[PGresult]] = deque()  # of the calls under way
        self._result: PGresult | None = None  # of the first of them
        self._loss: psycopg.Error | None = None
        self._socket = -1
        self._is_writing = False
        self._watch()

    def close(self) -> None:
        """Before the connection closes; what was not answered never will be."""
        self._unwatch()
        self._fail(psycopg.OperationalError("the connection was closed"))

    async def prepare(self, statement: str) -> None:
        """Has the statement ready for `send`; nothing behind a pooler."""
        if self._connection.prepare_threshold is not None and statement not in self._names:
            name = b"perdure_%d" % len(self._names)
            text = statement.encode()
            await self._begin(lambda: self._pgconn.send_prepare(name, text))
            self._names[statement] = name

    def send(self, call: RawCall[Any]) -> asyncio.Future[PGresult]:
        """Sends at once; the answer, or what went wrong, comes with the future."""
        name = self._names.get(call.statement)
        if name is None:
            text = call.statement.encode()
            return self._begin(lambda: self._pgconn.send_query_params(text, call.params))
        return self._begin(lambda: self._pgconn.send_query_prepared(name, call.params))

    async def settled(self) -> None:
        """Until nothing is under way; what nobody waits for any more is cancelled."""
        while self._answers:
            answer = self._answers[0]
            if answer.done():
                answer = self._answers[0] = self._loop.create_future()
                await self._cancel_until(answer)
            else:
                await asyncio.wait([answer])

    async def _cancel_until(self, answer: asyncio.Future[PGresult]) -> None:
        while not answer.done():
            with contextlib.suppress(psycopg.Error, OSError):
                await self._connection.cancel_safe(timeout=_PATIENCE)
            await asyncio.wait([answer], timeout=_AGAIN)  # it may have come before the call itself

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """The connection, for psycopg's own ways; the socket is watched again afterwards."""
        await self.settled()
        self._unwatch()
        if not self._connection.closed:
            self._pgconn.exit_pipeline_mode()
        try:
            yield self._connection
        finally:
            if not self._connection.closed:
                self._watch()

    def forget(self) -> None:
        """What is prepared, after `deallocate all`."""
        self._names.clear()

    def _begin(self, send: Callable[[], None]) -> asyncio.Future[PGresult]:
        if self._loss is not None:
            raise self._loss
        try:
            send()
            self._pgconn.pipeline_sync()
        except psycopg.OperationalError as error:  # libpq may have closed the socket
            self._lose(error)
            raise
        answer = self._loop.create_future()
        self._answers.append(answer)
        self._flush()
        return answer

    def _flush(self) -> None:
        try:
            is_flushed = self._pgconn.flush() == 0
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if not is_flushed:
            self._loop.add_writer(self._socket, self._flush)
            self._is_writing = True
        elif self._is_writing:
            self._loop.remove_writer(self._socket)
            self._is_writing = False

    def _read(self) -> None:
        try:
            self._pgconn.consume_input()
            while self._answers and not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:  # the end of a statement, or of everything
                    if self._pgconn.status != pq.ConnStatus.OK:
                        break
                elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                    self._settle_first()
                elif self._result is None:
                    self._result = result
        except psycopg.OperationalError as error:
            self._lose(error)
            return
        if self._pgconn.status != pq.ConnStatus.OK:
            self._lose(psycopg.OperationalError("the server has hung up"))

    def _settle_first(self) -> None:
        answer = self._answers.popleft()
        result, self._result = self._result, None
        if answer.done() or result is None:
            return
        if result.status in _WELL:
            answer.set_result(result)
        else:
            _set_error(answer, error_from_result(result, "utf-8"))

    def _lose(self, error: psycopg.Error) -> None:
        if self._result is not None and self._result.status not in _WELL:  # the server said why
            error = error_from_result(self._result, "utf-8")
        self._loss = error
        self._unwatch()
        self._pgconn.finish()
        self._fail(error)

    def _watch(self) -> None:
        self._socket = self._pgconn.socket
        self._pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._read)

    def _unwatch(self) -> None:
        if self._socket >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket, self._is_writing = -1, False

    def _fail(self, error: psycopg.Error) -> None:
        answers, self._result = list(self._answers), None
        self._answers.clear()
        for answer in answers:
            if not answer.done():
                _set_error(answer, error)


def _set_error(answer: asyncio.Future[PGresult], error: psycopg.Error) -> None:
    answer.set_exception(error)
    answer.exception()  # where nobody waits, nobody has to hear of it
