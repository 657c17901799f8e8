"""A lock with a name, held by one at a time among all who use the same database.

All locks of a process with the same settings stand for election in one thread, over one
connection; two locks of one channel exclude each other there as anywhere else, each with a
connection of its own. The blocking and the awaiting class differ only in how they wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg

from perdure import _calls
from perdure._client_async import send as send_async
from perdure._client_sync import send
from perdure._election import Election, check_settings
from perdure._task import check_name
from perdure.errors import CannotConnect, Fenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Self
    from uuid import UUID

log = logging.getLogger("perdure")

_SLACK = 0.5  # seconds beyond the time-to-live, for the thread to answer
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGABRT)

Settings = tuple["str | None", float, float, str]


class _Shared:
    """One election, and those who use it: one for each channel."""

    def __init__(self, settings: Settings) -> None:
        dsn, ttl, retry, name = settings
        self.seats: dict[str, _Seat] = {}
        self.election = Election(
            dsn,
            name=name,
            ttl=ttl,
            retry=retry,
            on_change=self._changed,
            on_release=self._released,
            on_refused=self._refused,
            on_error=self._failed,
        )

    def _changed(self, channel: str, epoch: int | None) -> None:
        if (seat := self.seats.get(channel)) is not None:
            seat.changed(epoch)

    def _released(self, channel: str) -> None:
        if (seat := self.seats.get(channel)) is not None:
            seat.released()

    def _refused(self, channel: str) -> None:
        if (seat := self.seats.get(channel)) is not None:
            seat.refused()

    def _failed(self, error: Exception) -> None:
        for seat in self._all():
            seat.failed(error)

    def _all(self) -> list[_Seat]:
        with _registry.lock:
            return list(self.seats.values())


class _Registry:
    """The elections of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._shared: dict[Settings, list[_Shared]] = {}
        self._is_hooked = False

    def join(self, settings: Settings, seat: _Seat) -> _Shared:
        """An election in which the channel is free; a new one where there is none."""
        with self.lock:
            if not self._is_hooked:
                os.register_at_fork(after_in_child=self._forget)
                self._is_hooked = True
            several = self._shared.setdefault(settings, [])
            shared = next((one for one in several if seat.channel not in one.seats), None)
            if shared is None:
                shared = _Shared(settings)
                several.append(shared)
            shared.seats[seat.channel] = seat
            return shared

    def leave(self, settings: Settings, seat: _Seat, shared: _Shared) -> None:
        """The last one hangs up."""
        with self.lock:
            shared.seats.pop(seat.channel, None)
            is_last = not shared.seats
            several = self._shared.get(settings, [])
            if is_last and shared in several:
                several.remove(shared)
                if not several:
                    del self._shared[settings]
        if is_last:
            shared.election.close()

    def all(self) -> list[_Seat]:
        with self.lock:
            return [
                seat
                for several in self._shared.values()
                for shared in several
                for seat in shared.seats.values()
            ]

    def _forget(self) -> None:
        """In a forked process: its locks hold nothing, and may be acquired there anew."""
        self.lock = threading.Lock()
        for seat in self.all():
            seat.forget()
        self._shared.clear()


_registry = _Registry()


class _Seat:
    """What a lock is, however it is waited for: what was asked for, and what came of it."""

    def __init__(
        self,
        channel: str,
        settings: Settings,
        tell: Callable[[Callable[..., object], object], object],
        on_acquire: Callable[[int], object] | None,
        on_release: Callable[[str], object] | None,
        on_lost: Callable[[int], object] | None,
    ) -> None:
        check_name("channel", channel)
        check_settings(*settings[1:])
        self.channel = channel
        self._settings = settings
        self._tell = tell
        self._on_acquire = on_acquire
        self.on_release = on_release
        self._on_lost = on_lost
        self._lock = threading.Lock()  # held for moments only
        self._shared: _Shared | None = None
        self._waiting: dict[Future[bool], bool] = {}  # whether it is for one try
        self._is_standing = False  # in the background too
        self._epoch: int | None = None  # as told last, whatever the clock says

    @property
    def election(self) -> Election | None:
        shared = self._shared
        return None if shared is None else shared.election

    @property
    def epoch(self) -> int | None:
        election = self.election
        return None if election is None else election.lead(self.channel)

    # Asking

    def stand(self) -> None:
        with self._lock:
            self._is_standing = True
            election = self._join()
        election.stand([self.channel])

    def ask(self, *, once: bool) -> Future[bool]:
        """Done with True when it is acquired; with False when it is refused, if only `once`."""
        asked: Future[bool] = Future()
        with self._lock:
            election = self._join()
            if self.epoch is not None:
                asked.set_result(True)
                return asked
            self._waiting[asked] = once
        election.stand([self.channel])
        return asked

    def give_up(self, asked: Future[bool]) -> None:
        """Stands no more, unless somebody else wants it to."""
        with self._lock:
            self._waiting.pop(asked, None)
            election = self.election
            if self._waiting or self._is_standing or election is None:
                return
            self._epoch = None  # nothing is lost by it
        election.withdraw([self.channel])

    def give_back(self) -> Future[bool]:
        """Stands no more; done with whether it is properly given back."""
        with self._lock:
            self._is_standing = False
            waiting, self._waiting = self._waiting, {}
            self._epoch = None
            election = self.election
        _answer(waiting, False)
        if election is not None:
            return election.withdraw([self.channel])
        nothing_held: Future[bool] = Future()
        nothing_held.set_result(True)
        return nothing_held

    def leave(self) -> None:
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            _registry.leave(self._settings, self, shared)

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._shared = None
        self._waiting = {}
        self._is_standing = False
        self._epoch = None

    def proof(self, epoch: int | None) -> _calls.Call[None]:
        election = self.election
        epoch = self.epoch if epoch is None else epoch
        if election is None or epoch is None:
            raise Fenced(f"the lock of channel {self.channel!r} is not held")
        return _calls.guard(self.channel, election.holder, epoch, "lock")

    def _join(self) -> Election:
        if self._shared is None:
            self._shared = _registry.join(self._settings, self)
        return self._shared.election

    # Being told, by the election's thread

    def changed(self, epoch: int | None) -> None:
        with self._lock:
            before, self._epoch = self._epoch, epoch
            waiting: dict[Future[bool], bool] = {}
            if epoch is not None:
                waiting, self._waiting = self._waiting, {}
            goes_on = self._is_standing or bool(self._waiting)
            election = self.election
        _answer(waiting, True)
        if epoch is not None:
            self._call(self._on_acquire, epoch)
        elif before is not None:
            if not goes_on and election is not None:  # who acquired it once has to do so again
                election.withdraw([self.channel])
            self._call(self._on_lost, before)

    def refused(self) -> None:
        with self._lock:
            refused = {asked: once for asked, once in self._waiting.items() if once}
            for asked in refused:
                del self._waiting[asked]
        _answer(refused, False)

    def released(self) -> None:
        self._call(self.on_release, self.channel)

    def failed(self, error: Exception) -> None:
        """Those who wait go on through a lost connection, not when there never was one of use."""
        is_passing = isinstance(error, psycopg.OperationalError | CannotConnect)
        if isinstance(error, psycopg.OperationalError):
            error = CannotConnect(f"the connection was lost: {error}")
        with self._lock:
            election = self.election
            can_wait = is_passing and election is not None and election.has_connected
            failed = [asked for asked, once in self._waiting.items() if once or not can_wait]
            for asked in failed:
                del self._waiting[asked]
        for asked in failed:
            if asked.set_running_or_notify_cancel():
                asked.set_exception(error)

    def _call(self, handler: Callable[..., object] | None, told: object) -> None:
        if handler is not None:
            self._tell(handler, told)


class _Lock:
    """What both kinds of lock have in common: all that does not wait."""

    def __init__(
        self,
        channel: str,
        dsn: str | None = None,
        *,
        ttl: float = 1.0,
        retry: float = 0.25,
        name: str | None = None,
        on_acquire: Callable[[int], object] | None = None,
        on_release: Callable[[str], object] | None = None,
        on_lost: Callable[[int], object] | None = None,
    ) -> None:
        self._ttl = float(ttl)
        name = name or f"{socket.gethostname()}:{os.getpid()}"
        settings = (dsn, self._ttl, float(retry), name)
        self._seat = _Seat(channel, settings, self._tell, on_acquire, on_release, on_lost)

    def __repr__(self) -> str:
        epoch = self.epoch
        state = "not acquired" if epoch is None else f"epoch {epoch}"
        return f"<{type(self).__name__} {self.channel!r}, {state}>"

    @property
    def channel(self) -> str:
        """The name of what is locked."""
        return self._seat.channel

    @property
    def is_acquired(self) -> bool:
        """Whether it is held, at this moment, by the clock: without asking the database."""
        return self.epoch is not None

    @property
    def epoch(self) -> int | None:
        """The number of this holding, which rises with each; None when it is not held."""
        return self._seat.epoch

    @property
    def holder(self) -> UUID | None:
        """What `perdure.guard` asks for beside the epoch; None before the lock was first used."""
        election = self._seat.election
        return None if election is None else election.holder

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler was found in between: the lock is a lease of three `ttl` then."""
        election = self._seat.election
        return election is not None and election.is_pooled

    def on_release(self, handler: Callable[[str], object]) -> None:
        """Has `handler(channel)` called whenever anybody gives this channel back.

        From the first use of the lock until it is closed, and again when it is used again. A lock
        has one handler: RuntimeError for another.
        """
        if self._seat.on_release is not None:
            raise RuntimeError(f"the lock of {self.channel!r} has a release handler already")
        self._seat.on_release = handler

    def _tell(self, handler: Callable[..., object], told: object) -> None:
        raise NotImplementedError

    # All of this process

    @staticmethod
    def has_instances() -> bool:
        """Whether any lock of this process is in use: not closed since it was asked for."""
        return bool(_registry.all())

    @staticmethod
    def close_all(timeout: float = 1.0) -> bool:
        """Closes every lock of this process, of either kind; whether all were given back."""
        give_up = time.monotonic() + timeout
        seats = _registry.all()
        is_done = True
        for future in [seat.give_back() for seat in seats]:
            try:
                is_done &= future.result(max(0.0, give_up - time.monotonic()))
            except FutureTimeoutError:
                is_done = False
        for seat in seats:
            seat.leave()
        return is_done

    @staticmethod
    def release_on_signals(timeout: float = 1.0) -> None:
        """Has SIGINT, SIGTERM and SIGABRT end the process once every lock is given back.

        The exit code is 0, or 1 where a lock could not be given back within `timeout` seconds; a
        second signal ends the process at once. Nothing is hooked without this call, which has to
        be made in the main thread.
        """
        leaving = _leavings.get(os.getpid())
        if leaving is None:
            leaving = _leavings[os.getpid()] = _Leaving()
        leaving.listen(timeout)


class ChannelLock(_Lock):
    """A lock on a channel: any name of up to 255 characters, held by one at a time.

    `ttl`: seconds after which a holder that is cut off or frozen is replaced; it knows a fifth
    earlier. `retry`: seconds after which a standby asks again when it heard of no release. The
    handlers run in a thread of their own: `on_acquire(epoch)`, `on_lost(epoch)` when it ended
    without being given back, `on_release(channel)` whenever anybody gives the channel back.
    """

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def stand(self) -> None:
        """Stands for it in the background, again after each loss, until `release` or `close`."""
        self._seat.stand()

    def acquire(self, timeout: float | None = None) -> bool:
        """Waits until it is held; 0: one try. The holder gets True, and nothing changes.

        False: it was refused, or `timeout` seconds have passed. HotStandby, CannotConnect and the
        like where the database cannot be used at all. Once lost it has to be acquired again.
        """
        was_acquired = self.is_acquired
        asked = self._seat.ask(once=timeout == 0)
        try:
            asked.result(timeout or None)
        except FutureTimeoutError:
            pass
        except BaseException:
            if not was_acquired:
                self._seat.give_up(asked)
            raise
        if not self.is_acquired:
            self._seat.give_up(asked)
            return False
        return True

    def release(self) -> bool:
        """Gives it back and stands no more; False where the connection was lost with it."""
        with contextlib.suppress(FutureTimeoutError):
            return self._seat.give_back().result(self._ttl + _SLACK)
        return False

    def close(self) -> bool:
        """Releases it; the last lock of the process hangs up. It can be used again."""
        is_given_back = self.release()
        self._seat.leave()
        return is_given_back

    def guard(self, conn: psycopg.Connection[Any], epoch: int | None = None) -> None:
        """First statement of a transaction that only the holder may commit; Fenced otherwise.

        Until the transaction ends nobody else gets the lock. `epoch`: that of the holding which
        has to last still, where it may have been another one than the present.
        """
        send(conn, self._seat.proof(epoch))

    def _tell(self, handler: Callable[..., object], told: object) -> None:
        _teller().put((handler, told))


class AsyncChannelLock(_Lock):
    """The same for asyncio: its handlers, which may be coroutine functions, run in the loop."""

    _loop: asyncio.AbstractEventLoop | None = None
    _tasks: set[asyncio.Future[object]]

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def stand(self) -> None:
        """As `ChannelLock.stand`."""
        self._bind()
        self._seat.stand()

    async def acquire(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """As `ChannelLock.acquire`."""
        self._bind()
        was_acquired = self.is_acquired
        asked = self._seat.ask(once=timeout == 0)
        try:
            async with asyncio.timeout(timeout or None):
                await asyncio.wrap_future(asked)
        except TimeoutError:
            pass
        except BaseException:
            if not was_acquired:
                self._seat.give_up(asked)
            raise
        if not self.is_acquired:
            self._seat.give_up(asked)
            return False
        return True

    async def release(self) -> bool:
        """As `ChannelLock.release`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._ttl + _SLACK):
                return await asyncio.wrap_future(self._seat.give_back())
        return False

    async def close(self) -> bool:
        """As `ChannelLock.close`."""
        is_given_back = await self.release()
        await asyncio.to_thread(self._seat.leave)
        return is_given_back

    async def guard(self, conn: psycopg.AsyncConnection[Any], epoch: int | None = None) -> None:
        """As `ChannelLock.guard`."""
        await send_async(conn, self._seat.proof(epoch))

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._tasks = set()

    def _tell(self, handler: Callable[..., object], told: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._run, handler, told)

    def _run(self, handler: Callable[..., object], told: object) -> None:
        answer = handler(told)
        if inspect.iscoroutine(answer):
            task = asyncio.ensure_future(answer)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _answer(waiting: Iterable[Future[bool]], answer: bool) -> None:
    for asked in waiting:
        if asked.set_running_or_notify_cancel():
            asked.set_result(answer)


_tellers: dict[int, SimpleQueue[tuple[Callable[..., object], object]]] = {}


def _teller() -> SimpleQueue[tuple[Callable[..., object], object]]:
    """Where a thread of this process takes handlers from: a slow one must not delay an election."""
    found = _tellers.get(os.getpid())
    if found is None:
        found = _tellers[os.getpid()] = SimpleQueue()
        threading.Thread(target=_call_all, args=[found], name="perdure-locks", daemon=True).start()
    return found


def _call_all(told: SimpleQueue[tuple[Callable[..., object], object]]) -> None:
    while True:
        handler, argument = told.get()
        try:
            handler(argument)
        except Exception:
            log.exception("a handler of a channel lock failed")


class _Leaving:
    """Ends the process on a signal.

    The locks are given back by a thread, for the main one may be in the middle of anything; then
    that one is interrupted, to exit. The thread hears of the signal by a pipe: one that comes just
    before the main thread begins a blocking call runs no handler until that call ends.
    """

    def __init__(self) -> None:
        self._timeout = 0.0
        self._process = os.getpid()
        self._is_told = False  # the main thread, of the first signal
        self._begun = threading.Lock()  # for good, by the first signal
        self._code: int | None = None
        self._heard, self._hearer = os.pipe()
        os.set_blocking(self._hearer, False)
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._hear, name="perdure-signals", daemon=True).start()

    def listen(self, timeout: float) -> None:
        self._timeout = timeout
        for number in _SIGNALS:
            signal.signal(number, self._tell)
        former = signal.set_wakeup_fd(self._hearer, warn_on_full_buffer=False)
        if former != -1:  # somebody else's, as an event loop's: then the handlers alone tell
            signal.set_wakeup_fd(former)

    def _forget(self) -> None:
        """In a fork: what it hears is not for its parent's pipe."""
        former = signal.set_wakeup_fd(-1)
        if former not in (-1, self._hearer):
            signal.set_wakeup_fd(former)

    def _hear(self) -> None:
        while True:
            for number in os.read(self._heard, 64):
                if number in _SIGNALS and signal.getsignal(number) == self._tell:
                    self._begin(number)

    def _tell(self, number: int, _: FrameType | None) -> None:
        """In the main thread."""
        if os.getpid() != self._process:  # a fork: it has no locks of ours
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif self._code is not None:
            raise SystemExit(self._code)
        elif self._is_told:
            os._exit(1)
        else:
            self._is_told = True
            self._begin(number)

    def _begin(self, number: int) -> None:
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._leave, args=[number], daemon=True).start()

    def _leave(self, number: int) -> None:
        is_done = False
        with contextlib.suppress(Exception):
            is_done = _Lock.close_all(self._timeout)
        self._code = 0 if is_done else 1
        main = threading.main_thread().ident
        if main is not None:
            signal.pthread_kill(main, number)
        time.sleep(self._timeout)  # then it does not listen: it is in some call without Python
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(self._code)


_leavings: dict[int, _Leaving] = {}  # for each process: a fork has its own
