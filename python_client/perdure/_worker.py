"""The worker: claims executions, runs their bodies, reports how they ended.

Bodies and exchanges share one event loop. One exchange is in flight at a time; the reports that
gather meanwhile go with the next one, which also claims into the free slots. Sync bodies run in
threads. What the database no longer grants is interrupted; what it never heard of for lack of a
connection is reported again. Signs of life, listening and housekeeping have threads and
connections of their own (`_control`, `_sweeper`), so that no body can hold them up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import math
import os
import random
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypedDict

import psycopg

from perdure import _calls, _dsn, _reports
from perdure._context import Context, Signal, enter
from perdure._control import Control, Registration
from perdure._finalize import Inputs
from perdure._session import Session
from perdure._sweeper import Sweeper
from perdure._threads import Job, Threads
from perdure.errors import (
    CannotConnect,
    ConnectionLost,
    PerdureError,
    SchemaNewer,
    TimedOut,
    WorkerGone,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perdure._app import App
    from perdure._calls import Judgement, Reply
    from perdure._direct import Event
    from perdure._reports import Report
    from perdure._session import Exchange
    from perdure._task import Task

log = logging.getLogger("perdure")

_DEAF_POLL = 0.25  # while nothing can be heard: behind a pooler, between two connections
_SHORTEST_PAUSE = 0.005
_MORE_PAUSE_MS = 50
_FIRST = 3  # of many idle workers that many, on average, answer an enqueue of one at once;
_NEXT = 0.016  # one more of them after so many seconds, whether or not there is anything left
_HELD_EVERY = 1.0  # how often a worker asks unbidden which of its leases are gone
_CURSOR_LIFE = 0.25  # a claim goes on where the last one ended, but looks at the head that often,
_HEAD_SHARE = 50  # or, where much stands there that is not for it, a fiftieth of the time
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 1.0
_GRACE = 5.0  # for bodies to end after they were interrupted


class WorkerOptions(TypedDict, total=False):
    """How a worker runs; see `Worker`."""

    queues: Sequence[str]
    concurrency: int
    batch: int
    prefetch: int
    drain_timeout: float
    poll: float
    ttl: float
    weight: int
    sweeper: bool
    direct_dsn: str | None
    name: str | None
    install_signals: bool


class _Phase(IntEnum):
    RUNNING = 0
    DRAINING = 1  # claims nothing, lets bodies end
    CANCELLING = 2  # interrupts them
    OVER = 3


class _Lease:
    """One claimed execution, until its report is made or it is taken away."""

    __slots__ = (
        "claimed_at",
        "context",
        "expires_at",
        "has_begun",
        "id",
        "input",
        "is_dropped",
        "is_interrupted",
        "is_late",
        "job",
        "task",
        "thread",
        "token",
    )

    def __init__(
        self,
        id_: int,
        token: int,
        task: Task[..., Any, Any],
        input_: Any,
        claimed_at: float,
        timeout: float,
        context: Context,
    ) -> None:
        self.id = id_
        self.token = token
        self.task = task
        self.input = input_
        self.context = context
        self.claimed_at = claimed_at
        self.expires_at = claimed_at + timeout  # the database counts from the claim, too
        self.job: asyncio.Task[None] | None = None
        self.thread: Job | None = None
        self.has_begun = False
        self.is_dropped = False  # no longer ours: its report would be refused
        self.is_late = False
        self.is_interrupted = False  # told to stop by this worker: handed back

    def must_stop(self) -> bool:
        return self.is_dropped or self.is_interrupted

    def expire(self) -> None:
        """Its time is up; a sync body is no longer waited for."""
        self.is_late = True
        self.interrupt()
        if self.thread is not None:
            self.thread.outcome.cancel()

    def interrupt(self) -> None:
        """Cancels an async body; asks a sync one through its context."""
        self.context.cancelled.set()
        if self.job is not None and self.has_begun and self.thread is None:
            self.job.cancel()


@dataclass(slots=True)
class _Flight:
    """An exchange under way."""

    sent_at: float
    after: bytes | None
    want: int
    reports: list[Report]
    sent: Exchange = field(init=False)
    is_stray: bool = False  # sent before a look at the head of the line was answered


class Worker:
    """Runs the tasks of an app from some queues until it is told to stop.

    `concurrency` bodies at once; up to `batch` claimed and any number reported per round trip;
    `prefetch` more are claimed ahead of a free slot. The first SIGTERM or SIGINT (or `stop`) lets
    running bodies end, for at most `drain_timeout` seconds; the second (or `cancel`) interrupts
    them and hands their executions back without using up an attempt.

    It listens for work and looks unasked every `poll` seconds, or when something is due. Its work
    is given to others when no sign of life came for `ttl` seconds. `weight` is its share of
    shards, `sweeper` whether it stands for the housekeeping of its queues. Where the app's database
    is reached through a pooler, `direct_dsn` (else PERDURE_DIRECT_URL) leads around it.
    """

    def __init__(
        self,
        app: App,
        *,
        queues: Sequence[str] = ("default",),
        concurrency: int = 100,
        batch: int = 100,
        prefetch: int = 0,
        drain_timeout: float = 30.0,
        poll: float = 5.0,
        ttl: float = 10.0,
        weight: int = 1,
        sweeper: bool = True,
        direct_dsn: str | None = None,
        name: str | None = None,
        install_signals: bool = True,
    ) -> None:
        if concurrency < 1 or batch < 1 or prefetch < 0 or drain_timeout < 0:
            raise ValueError("concurrency and batch are at least 1, prefetch and drain_timeout 0")
        if not (poll > 0 and 1 <= ttl <= 86_400 and 1 <= weight <= 1000):
            raise ValueError("poll is more than 0, ttl 1 to 86,400 seconds, weight 1 to 1000")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues is {queues!r}, not a list of names")
        names = [task.name for task in app.tasks.values() if not task.is_sleeping]
        if not names:
            raise ValueError("the app has no tasks that a worker could run")
        self._app = app
        self._queues = frozenset(queues)
        self._concurrency = concurrency
        self._batch = batch
        self._prefetch = prefetch
        self._drain_timeout = drain_timeout
        self._install_signals = install_signals
        self._poll = poll
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        direct = _dsn.direct(app.dsn, direct_dsn)
        registration = Registration(self._name, list(queues), names, ttl, weight)
        self._control = Control(direct, registration, self._overhear)
        self._session = Session(app.dsn, tasks=app.definitions(), control=self._control)
        self._sweeper = Sweeper(direct, self._name, queues if sweeper else (), app.watches)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leases: dict[int, _Lease] = {}  # begun or not, but not reported
        self._backlog: deque[_Lease] = deque()  # claimed ahead, not begun
        self._reports: list[Report] = []
        self._flights: deque[_Flight] = deque()  # exchanges under way
        self._busy = 0  # slots in use: bodies, and threads that outlive their attempt
        self._phase = _Phase.RUNNING
        self._shutting_down = Signal()
        self._stir = asyncio.Event()
        self._held_at = 0.0
        self._backoff = _FIRST_BACKOFF
        self._threads = Threads(concurrency)
        self._inputs = Inputs(app)
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf  # when the first of the begun leases expires
        self._timers: list[asyncio.TimerHandle] = []
        self._look: asyncio.TimerHandle | None = None  # where others were left to go first

    # Life

    async def run(self) -> None:
        """Works until stopped; returns when every lease is reported or handed back."""
        self._loop = asyncio.get_running_loop()
        with self._signals():
            try:
                self._control.start()
                await self._session.open(())
                log.info("worker %s is running", self._name)
                self._sweeper.start()
                await self._work()
            finally:
                await self._leave()
        log.info("worker %s has stopped", self._name)

    def stop(self) -> None:
        """Claims nothing more, hands back what was not begun, lets running bodies end."""
        if self._phase is not _Phase.RUNNING:
            return
        log.info("stopping: %d running", self._busy)
        self._phase = _Phase.DRAINING
        self._shutting_down.set()
        while self._backlog:
            self._hand_back(self._backlog.popleft())
        self._later(self._drain_timeout, self.cancel)
        self._stir.set()

    def cancel(self) -> None:
        """Interrupts the running bodies; their executions go back without using an attempt."""
        self.stop()
        if self._phase >= _Phase.CANCELLING:
            return
        self._phase = _Phase.CANCELLING
        for lease in self._leases.values():
            lease.is_interrupted = True
            lease.interrupt()
        self._later(_GRACE, self._give_up)
        self._stir.set()

    def _later(self, delay: float, act: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay, act))

    def _give_up(self) -> None:
        self._phase = _Phase.OVER
        self._stir.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if self._install_signals else ()

        def tell() -> None:
            if self._phase is _Phase.RUNNING:
                self.stop()
            else:
                self.cancel()
                for number in signals:  # a third one kills
                    loop.remove_signal_handler(number)

        for number in signals:
            loop.add_signal_handler(number, tell)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _leave(self) -> None:
        for timer in (*self._timers, self._alarm):
            if timer is not None:
                timer.cancel()
        for lease in list(self._leases.values()):
            self._drop(lease)
        self._threads.shutdown()
        await asyncio.to_thread(self._sweeper.stop)
        try:
            async with asyncio.timeout(_GRACE):
                if self._reports and self._session.is_open:
                    await self._session.report(self._take_reports())
                self._control.leave()
                await self._session.close()
        except (psycopg.Error, PerdureError, OSError) as error:
            log.warning("leaving without a word: %s", _first_line(error) or "no answer in time")
        finally:
            await self._session.hang_up()
            await asyncio.to_thread(self._control.stop)
            if self._look is not None:
                self._look.cancel()

    # Exchanging

    async def _work(self) -> None:
        is_connected = True
        while not self._is_over():
            try:
                if not is_connected:
                    await self._resume()
                    is_connected = True
                await self._converse()
                return
            except SchemaNewer:
                raise
            except WorkerGone:
                log.warning("the database no longer knows this worker: registering anew")
                is_connected = False
                for lease in list(self._leases.values()):
                    self._drop(lease)
            except (psycopg.Error, PerdureError, OSError) as error:
                level = logging.WARNING if is_connected else logging.DEBUG
                log.log(level, "the exchange was lost: %s", _first_line(error))
                is_connected = False
                await asyncio.sleep(self._backoff * random.uniform(0.5, 1.0))
                self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)

    async def _resume(self) -> None:
        unsent = {report.id: report.token for report in self._reports}
        held = await self._session.open([*self._leases, *unsent])
        for lease in list(self._leases.values()):
            if held.get(lease.id) != lease.token:
                self._drop(lease)
        log.info("connected again, %d leases held", len(self._leases))

    async def _converse(self) -> None:
        self._flights.clear()
        try:
            await self._exchange_on()
        except BaseException:  # whether they arrived is not known: tell again
            self._reports[:0] = [report for flight in self._flights for report in flight.reports]
            raise

    async def _exchange_on(self) -> None:
        after: bytes | None = None
        looked_at = 0.0  # at the head of the line
        answered_at = 0.0
        cursor_life = _CURSOR_LIFE
        is_fruitless = is_full = False
        pending: list[list[Any]] = []  # claimed, and taken while an exchange is under way
        while self._flights or not self._is_over():
            if not self._flights or self._may_go_ahead(is_full, pending):
                self._stir.clear()  # what stirs from here on is not in the answer
                now = time.monotonic()
                looks = after is None or now - looked_at > cursor_life
                if looks:
                    looked_at = now
                self._send(now, None if looks else after, pending)
            self._take_all(pending)  # begins while the server works
            pending = []
            if is_full and len(self._flights) < self._session.depth:
                await asyncio.sleep(0)  # lets what was claimed begin, and the shortest bodies end
                if self._may_go_ahead(is_full, pending):
                    continue
            flight = self._flights[0]
            reply = await self._session.receive(flight.sent)
            self._flights.popleft()
            self._heed(reply)
            is_full = 0 < flight.want == len(reply.claimed)
            if flight.after is None:
                taken = time.monotonic() - max(flight.sent_at, answered_at)
                cursor_life = min(self._poll, max(_CURSOR_LIFE, _HEAD_SHARE * taken))
                for other in self._flights:  # goes on from where none goes on any more
                    other.is_stray = True
            if not flight.is_stray:
                after = reply.after if is_full else None
            answered_at = time.monotonic()
            pending = reply.claimed
            if reply.more and self._flights:
                self._stir.set()  # the next one may have been run before there was more
            if self._flights or (is_full and self._want(len(pending))):
                continue  # claims on while these begin
            self._take_all(pending)
            pending = []
            await asyncio.sleep(0)
            was_fruitless, is_fruitless = is_fruitless, not (reply.claimed or flight.reports)
            if not (reply.more or self._reports):
                await self._pause(reply.wait_ms if flight.want else None)
            elif was_fruitless and is_fruitless and not self._reports:
                await self._pause(_MORE_PAUSE_MS)  # what more there is, is not for this worker

    def _heed(self, reply: Reply) -> None:
        """All that an answer tells, but what was claimed."""
        self._backoff = _FIRST_BACKOFF
        if reply.wake:
            self._control.wake_others()
        for judgement in reply.judgements:
            _log_judgement(judgement)
        for id_ in reply.gone:
            if (lost := self._leases.get(id_)) is not None:
                self._drop(lost)

    def _may_go_ahead(self, is_full: bool, pending: Sequence[list[Any]]) -> bool:
        """Whether a batch is worth sending before the last one was answered: a full one is."""
        return (
            is_full
            and len(self._flights) < self._session.depth
            and self._want(len(pending)) == self._batch
        )

    def _send(self, now: float, after: bytes | None, pending: Sequence[list[Any]]) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        flight = _Flight(now, after, self._want(len(pending)), self._take_reports())
        self._flights.append(flight)
        flight.sent = self._session.send(flight.reports, flight.want, self._held(now), after)

    def _is_over(self) -> bool:
        if self._phase is _Phase.OVER:
            return True
        return self._phase > _Phase.RUNNING and not self._leases and not self._reports

    def _want(self, pending: int = 0) -> int:
        """How many to claim, when `pending` were claimed and what is under way may bring more."""
        asked = sum(flight.want for flight in self._flights)
        return max(0, min(self._batch, self._slots() - pending - asked))

    def _slots(self) -> int:
        """How many more it could have."""
        if self._phase > _Phase.RUNNING:
            return 0
        return self._concurrency + self._prefetch - self._busy - len(self._backlog)

    def _held(self, now: float) -> list[int] | None:
        """The ids to ask about, none where that was asked a moment ago."""
        if not self._leases or now - self._held_at < _HELD_EVERY:
            return None
        self._held_at = now
        return list(self._leases)

    def _take_reports(self) -> list[Report]:
        """The reports to send, up to what one call may carry."""
        size = 0
        for count, report in enumerate(self._reports):
            size += len(report.data)
            if count and size > _calls.BYTES_PER_CALL:
                break
        else:
            count = len(self._reports)
        taken, self._reports = self._reports[:count], self._reports[count:]
        return taken

    async def _pause(self, wait_ms: int | None) -> None:
        """Until something is to be told, was heard, or is due, or it is time to ask unbidden."""
        longest = self._poll * random.uniform(0.8, 1.0)
        if self._leases:
            longest = min(longest, _HELD_EVERY)
        if not self._control.is_hearing:
            longest = min(longest, _DEAF_POLL)
        if wait_ms is not None:  # what is due and yet was not claimed belongs to others
            longest = min(longest, max(_SHORTEST_PAUSE, wait_ms / 1000))
        if self._is_over():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._stir.wait()

    def _overhear(self, event: Event) -> None:
        """Called by the control thread."""
        assert self._loop is not None
        if not self._serves(event.queues):
            return
        goes_first = self._goes_first(event)
        if not goes_first and self._look is not None:
            return  # which has not been taken yet, so it will find this, too
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._hear, event, goes_first)

    def _goes_first(self, event: Event) -> bool:
        """Whether to ask at once: of many idle workers few are needed for what was enqueued."""
        peers = self._control.peers
        if event.event != "ready" or event.items is None or peers <= _FIRST:
            return True
        return random.random() * peers < _FIRST + event.items / max(1, self._slots())

    def _hear(self, event: Event, goes_first: bool) -> None:
        if event.event == "gone" and self._leases:
            self._held_at = -_HELD_EVERY
            self._stir.set()
        elif (
            event.event in ("ready", "gone", "shards")
            and self._slots() > 0  # without a free slot: the next that falls free asks
        ):
            if goes_first:
                self._stir.set()
            elif self._look is None:
                assert self._loop is not None
                delay = random.uniform(0, self._control.peers * _NEXT)
                self._look = self._loop.call_later(delay, self._stir.set)

    def _serves(self, queues: list[str] | None) -> bool:
        return queues is None or not self._queues.isdisjoint(queues)

    # Leases

    def _take_all(self, claimed: Sequence[list[Any]]) -> None:
        now = time.monotonic()
        for values in claimed:
            self._take(now, *values)

    def _take(
        self,
        claimed_at: float,
        id_: int,
        token: int,
        name: str,
        attempt: int,
        input_: Any,
        timeout_ms: int,
        extra: dict[str, Any] | None,
    ) -> None:
        former = self._leases.get(id_)
        if former is not None:
            self._drop(former)
        context = Context(id_, name, attempt, extra, self._shutting_down)
        task = self._app.tasks[name]
        lease = _Lease(id_, token, task, input_, claimed_at, timeout_ms / 1000, context)
        self._leases[id_] = lease
        if self._phase > _Phase.RUNNING:
            self._hand_back(lease)  # the claim was under way when the worker was told to stop
        elif self._busy < self._concurrency:
            self._begin(lease)
        else:
            self._backlog.append(lease)

    def _begin(self, lease: _Lease) -> None:
        assert self._loop is not None
        self._busy += 1
        lease.job = self._loop.create_task(self._run(lease))
        if lease.expires_at < self._alarm_at:
            self._set_alarm(lease.expires_at)

    def _set_alarm(self, at: float) -> None:
        """One timer for all: a timer for each body would cost more than the shortest bodies."""
        assert self._loop is not None
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(at - time.monotonic(), self._expire)

    def _expire(self) -> None:
        """Ends the attempts whose time is up; the alarm is set for the next one."""
        self._alarm, self._alarm_at = None, math.inf
        now = time.monotonic()
        begun = [x for x in self._leases.values() if x.job is not None and not x.is_late]
        for lease in begun:
            if lease.expires_at <= now:
                lease.expire()
        at = min((x.expires_at for x in begun if not x.is_late), default=math.inf)
        if at < math.inf:
            self._set_alarm(at)

    def _drop(self, lease: _Lease) -> None:
        """The lease is not ours any more: stops its body, whose report would be refused."""
        del self._leases[lease.id]
        lease.is_dropped = True
        if lease.job is None:
            with contextlib.suppress(ValueError):
                self._backlog.remove(lease)
        lease.interrupt()

    def _hand_back(self, lease: _Lease) -> None:
        self._report(lease, _reports.report(lease.id, lease.token, "released"))

    def _report(self, lease: _Lease, report: Report) -> None:
        if not lease.is_dropped:
            del self._leases[lease.id]
            lease.is_dropped = True
            self._reports.append(report)
            self._stir.set()

    def _free(self) -> None:
        """A slot is free: the next that waits for one begins."""
        self._busy -= 1
        while self._backlog and self._busy < self._concurrency:
            lease = self._backlog.popleft()
            middle = (lease.claimed_at + lease.expires_at) / 2
            if time.monotonic() > middle:  # too little of its time is left
                self._hand_back(lease)
            else:
                self._begin(lease)
        self._stir.set()

    # Bodies

    async def _run(self, lease: _Lease) -> None:
        """One attempt, from the input to the report."""
        task = lease.task
        try:
            if lease.must_stop():
                raise asyncio.CancelledError
            lease.has_begun = True
            enter(lease.context)
            try:
                if task.is_plain:
                    args, kwargs = task.binding.read_input(lease.input)
                else:
                    args, kwargs = await self._arguments(lease)
            except Exception as error:
                report = _not_begun(lease, error)
            else:
                try:
                    if task.is_async:
                        value = await task.body(*args, **kwargs)
                    else:
                        value = await self._in_thread(lease, args, kwargs)
                except (Exception, SystemExit, asyncio.CancelledError) as error:
                    report = _raised(lease, error)
                else:
                    report = _reports.returned(self._app, task, lease.id, lease.token, value)
            self._report(lease, report)
        except asyncio.CancelledError:
            self._hand_back(lease)
        finally:
            if lease.thread is None or lease.thread.is_over:
                self._free()
            else:  # it keeps its slot until it really ends; what it says then is ignored
                lease.thread.when_over = self._free

    async def _arguments(self, lease: _Lease) -> tuple[list[Any], dict[str, Any]]:
        """Of a task with a check of its own, or of a finalize."""
        task = lease.task
        given = lease.input if task.validate is None else await _validated(task, lease.input)
        args, kwargs = task.binding.read_input(given)
        if (parameter := task.binding.finalize_parameter) is not None:
            kwargs[parameter] = await self._inputs.read(lease.input)
        return args, kwargs

    async def _in_thread(self, lease: _Lease, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        inside = contextvars.copy_context()
        call = functools.partial(inside.run, _call, lease.task.body, args, kwargs)
        lease.thread = self._threads.run(call)
        return await lease.thread.outcome


def _not_begun(lease: _Lease, error: Exception) -> Report:
    if isinstance(error, (CannotConnect, ConnectionLost, psycopg.OperationalError)):
        log.warning("execution %d is handed back: %s", lease.id, _first_line(error))
        return _reports.report(lease.id, lease.token, "released")
    return _reports.invalid_input(lease.task.name, lease.id, lease.token, error)


def _raised(lease: _Lease, error: BaseException) -> Report:
    """The report of a body that raised; CancelledError where it has to be handed back."""
    if isinstance(error, asyncio.CancelledError):
        if lease.must_stop():
            raise error
        if not lease.is_late:
            error = RuntimeError("the body was cancelled from within")
        else:
            error = TimedOut()
    elif lease.must_stop():
        return _reports.report(lease.id, lease.token, "released")
    return _reports.raised(lease.id, lease.token, error)


async def _validated(task: Task[..., Any, Any], value: Any) -> Any:
    assert task.validate is not None
    verdict = task.validate(value)
    return await verdict if inspect.isawaitable(verdict) else verdict


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _call(body: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return body(*args, **kwargs)
    except StopIteration as error:  # a future cannot carry it
        raise RuntimeError("the body raised StopIteration") from error


_LEVELS = {
    "already": logging.DEBUG,
    "cancelled": logging.DEBUG,
    "lost": logging.WARNING,
    "failed": logging.WARNING,
    "invalid": logging.ERROR,
}


def _log_judgement(judgement: Judgement) -> None:
    level = _LEVELS.get(judgement.result, logging.DEBUG)
    reason = judgement.message or ""
    log.log(level, "report of execution %d: %s %s", judgement.id, judgement.result, reason)
