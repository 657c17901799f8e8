"""A worker's conversation with the engine: one connection, an incarnation, numbered calls."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from perdure import _calls, _dsn
from perdure._client_async import OUTDATED, connect, send_replanned
from perdure._wire import Wire
from perdure.errors import BrokenInvariant, CannotConnect, WorkerGone, from_psycopg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from psycopg.pq.abc import PGresult

    from perdure._calls import Call, Judgement, RawCall, Reply
    from perdure._control import Control
    from perdure._reports import Report

T = TypeVar("T")

# Something in the batch is at fault, not the call: data, integrity, limits.
_ABOUT_DATA = ("22", "23", "54")
_DEPTH = 2
_PATIENCE = 2.0  # with the control session, once it has been there: then the worker looks around


@dataclass(frozen=True, slots=True)
class Exchange:
    """One that was sent."""

    reports: Sequence[Report]
    call: RawCall[Reply]
    answer: asyncio.Future[PGresult]


class Session:
    """Opens, opens again after a loss, exchanges. Nothing here is repeated but by `open`."""

    def __init__(
        self, dsn: str | None, *, tasks: Sequence[Mapping[str, Any]], control: Control
    ) -> None:
        self._dsn = dsn
        self._tasks = tasks
        self._control = control
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._wire: Wire | None = None
        self._worker: UUID | None = None
        self._call = 0

    @property
    def is_open(self) -> bool:
        return (
            self._wire is not None and self._connection is not None and not self._connection.closed
        )

    @property
    def depth(self) -> int:
        """How many exchanges may be under way: the server need not wait for the client."""
        assert self._connection is not None
        return 1 if self._connection.prepare_threshold is None else _DEPTH  # a pooler: 1

    async def open(self, held: Iterable[int]) -> dict[int, int]:
        """Connects, and begins or resumes; returns the leases still held: id to token."""
        await self.hang_up()
        # what a wire sends and gets is UTF-8, whatever the DSN says
        dsn = make_conninfo(_dsn.resolve(self._dsn), client_encoding="UTF8")
        self._connection = await connect(dsn, "perdure worker")
        still_held = await self._begin_or_resume(held)
        self._wire = Wire(self._connection)
        with contextlib.suppress(psycopg.ProgrammingError):  # it fails again when it is sent
            await self._prepare(self._wire)
        return still_held

    async def _begin_or_resume(self, held: Iterable[int]) -> dict[int, int]:
        assert self._connection is not None
        if self._connection.prepare_threshold is not None:  # no pooler is in between
            # a claim whose answer nobody takes would keep the worker's row locked: not given up
            await self._run(_calls.limit_silence(self._control.patience))
        former = self._worker
        if former is None:
            await self._run(_calls.define_tasks(self._tasks))
        else:
            try:
                return await self._run(_calls.resume_worker(former, list(held), self._call + 1))
            except WorkerGone:
                pass
        registered = asyncio.wrap_future(self._control.registered(instead_of=former))
        try:
            async with asyncio.timeout(None if former is None else _PATIENCE):
                self._worker = await registered
        except TimeoutError:
            raise CannotConnect("the control session has not registered the worker yet") from None
        self._call = 0
        return {}

    async def _prepare(self, wire: Wire) -> None:
        for statement in (_calls.EXCHANGE, _calls.CLAIM):
            await wire.prepare(statement)

    def send(
        self, reports: Sequence[Report], want: int, held: Sequence[int] | None, after: bytes | None
    ) -> Exchange:
        """Reports and claims in one round trip, which begins at once; `receive` has to follow.

        Up to `depth` at once, received in the order in which they were sent.
        """
        assert self._worker is not None
        assert self._wire is not None
        self._call += 1
        data = _calls.array([report.data for report in reports]) if reports else None
        call = _calls.exchange(self._worker, data, want, held, self._call, after)
        return Exchange(reports, call, self._wire.send(call))

    async def receive(self, sent: Exchange) -> Reply:
        """The reply; reports that the database chokes on are set apart."""
        assert self._worker is not None
        try:
            return await self._received(sent)
        except (psycopg.Error, BrokenInvariant) as error:
            if not sent.reports or not _is_about_data(error):
                raise
            judgements = await self._finish_apart(self._worker, sent.reports)
            return _calls.Reply(judgements, [], [], more=True, wait_ms=None, after=None)

    async def _received(self, sent: Exchange) -> Reply:
        assert self._wire is not None
        try:
            try:
                result = await sent.answer
            except OUTDATED:  # planned for functions that have been replaced since: nothing was run
                async with self._wire.aside() as connection:
                    await connection.execute("deallocate all")
                self._wire.forget()
                await self._prepare(self._wire)
                result = await self._wire.send(sent.call)
        except psycopg.Error as error:
            if (own := from_psycopg(error)) is not None:
                raise own from error
            raise
        return sent.call.decode([result.get_value(0, at) for at in range(result.nfields)])

    async def report(self, reports: Sequence[Report]) -> None:
        """Reports what is left, once the exchange under way, if there is one, is over."""
        assert self._wire is not None
        await self._wire.settled()
        await self.receive(self.send(reports, 0, None, None))

    async def _finish_apart(self, worker: UUID, reports: Sequence[Report]) -> list[Judgement]:
        try:
            data = _calls.array([report.data for report in reports])
            return await self._run(_calls.finish(worker, data))
        except (psycopg.Error, BrokenInvariant) as error:
            if not _is_about_data(error):
                raise
            if len(reports) == 1:
                (culprit,) = reports
                reason = f"the database refused the outcome: {_primary(error)}"
                data = _calls.array([culprit.replaced(reason).data])
                return await self._run(_calls.finish(worker, data))
        half = len(reports) // 2
        first = await self._finish_apart(worker, reports[:half])
        return first + await self._finish_apart(worker, reports[half:])

    async def close(self) -> None:
        """Hands back what is still leased, and leaves."""
        try:
            if self._worker is not None and self._connection is not None:
                await self._run(_calls.unregister_worker(self._worker))
                self._worker = None
        finally:
            await self.hang_up()

    async def hang_up(self) -> None:
        """Closes the connection without a word, if there is one."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def _run(self, call: Call[T]) -> T:
        assert self._connection is not None
        if self._wire is None:
            return await send_replanned(self._connection, call)
        async with self._wire.aside() as connection:
            return await send_replanned(connection, call)


def _is_about_data(error: psycopg.Error | BrokenInvariant) -> bool:
    return isinstance(error, BrokenInvariant) or (error.sqlstate or "")[:2] in _ABOUT_DATA


def _primary(error: psycopg.Error | BrokenInvariant) -> str:
    if isinstance(error, psycopg.Error):
        return error.diag.message_primary or str(error)
    return str(error)
