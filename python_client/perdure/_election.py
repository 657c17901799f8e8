"""Standing for the leadership of any number of channels: one thread, one connection.

Who leads believes so for less time than the server takes to let the next one in: each answer is
worth a time-to-live from before the question, less a margin. So a leader that is cut off or frozen
stops believing first, by its own monotonic clock, and whatever it writes late is fenced by (holder,
epoch). Any doubt (an error, no answer in time) is resolved in one way: hang up, concede everything,
connect again, stand again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import psycopg

from perdure import _calls
from perdure._direct import Direct, Event
from perdure._task import check_name
from perdure.errors import HotStandby, PerdureError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from perdure._calls import Call

log = logging.getLogger("perdure")

T = TypeVar("T")

_LEAST_TTL = 0.3  # less leaves a leader no time to be confirmed before it has to concede
_LONGEST_TTL = 3600.0
_LEAST_RETRY = 0.02
_CANDIDATES_TTL = 10.0  # of a session that holds nothing: it need not be heard of so often
_LEASE = 3.0  # times the ttl: a lease is renewed by writing, so seldom
_JITTER = 0.2  # of the retry: that much sooner, never later
_RELEASE_JITTER = 0.05  # seconds: not everybody asks in the same moment
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 1.0
_LONGEST_WAIT = 60.0


class _DoubtError(Exception):
    """Leadership was not confirmed while it was worth something, or was denied."""


@dataclass(frozen=True, slots=True)
class _Belief:
    epoch: int
    until: float  # by the monotonic clock


@dataclass(slots=True)
class _Candidacy:
    """One channel that is stood for."""

    ask_at: float = 0.0
    not_before: float = 0.0  # others go first until then
    busy: int = 0  # answers `busy` in a row


def margin(ttl: float) -> float:
    """How much earlier a leader concedes than the server lets the next one in."""
    return max(0.2 * ttl, 0.1)


class Election:
    """Stands for channels from the first `stand` on; its methods may be called by any thread.

    `on_change(channel, epoch or None)` is called from the election's thread whenever leadership
    begins or ends; `on_release(channel)` when anybody gave a channel back, `on_refused(channel)`
    when somebody else was found to lead, `on_error(error)` when the connection could not be had or
    was lost. All have to return at once: leadership is not
    confirmed meanwhile. Behind a pooler leases stand in for session locks, and only its own
    releases are heard of.
    """

    def __init__(
        self,
        dsn: str | None,
        *,
        name: str,
        purpose: str = "lock",
        ttl: float = 1.0,
        retry: float = 0.25,
        lease_ttl: float | None = None,
        on_change: Callable[[str, int | None], object] = lambda *_: None,
        on_release: Callable[[str], object] = lambda _: None,
        on_refused: Callable[[str], object] = lambda _: None,
        on_error: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        self._lease_ttl = _LEASE * ttl if lease_ttl is None else lease_ttl
        check_settings(ttl, retry, name, self._lease_ttl)
        self.holder = uuid4()
        self._dsn = dsn
        self._name = name
        self._purpose = purpose
        self._ttl = ttl
        self._retry = retry
        self._on_change = on_change
        self._on_release = on_release
        self._on_refused = on_refused
        self._on_error = on_error
        self._process = os.getpid()
        self._lock = threading.Lock()  # of what other threads ask for; held for moments only
        self._standing: dict[str, _Candidacy] = {}
        self._asked: frozenset[str] = frozenset()  # in the statement that is under way
        self._leaving: dict[str, Future[bool]] = {}
        self._believed: dict[str, _Belief] = {}  # replaced item by item: read without the lock
        self._held: dict[str, int] = {}  # what the server has granted; of the thread alone
        self._yielding: set[str] = set()
        self._is_closing = False
        self._direct: Direct | None = None  # while the thread runs
        self._thread: threading.Thread | None = None
        self._open_at = 0.0
        self._confirm_at = 0.0
        self._failures = 0
        self.has_connected = False
        self.error: Exception | None = None  # why there is no connection
        _forget_in_forks(self)

    # From any thread

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler was found, so that leases stand in for session locks."""
        direct = self._direct
        return direct is not None and direct.is_pooled

    def stand(self, channels: Iterable[str]) -> None:
        """Stands for these too, at once, until they are withdrawn."""
        wanted = list(channels)
        for channel in wanted:
            check_name("channel", channel)
        with self._lock:
            if self._process != os.getpid():
                raise RuntimeError("an election does not go on in a forked process: make a new one")
            if self._is_closing:
                raise RuntimeError("the election is closed")
            for channel in wanted:
                self._standing.setdefault(channel, _Candidacy())
            if self._thread is None:
                self._direct = Direct(
                    self._dsn,
                    f"perdure {self._purpose}",
                    ttl=self._ttl,
                    patience=max(self._ttl, _CANDIDATES_TTL),
                    ears="perdure_leadership",
                )
                self._thread = threading.Thread(
                    target=self._run, name=f"perdure-election-{self._purpose}", daemon=True
                )
                self._thread.start()
            self._wake()

    def lead(self, channel: str) -> int | None:
        """The epoch under which it leads, by the clock; None where it does not, or may not."""
        belief = self._believed.get(channel)
        if belief is None or time.monotonic() >= belief.until or self._process != os.getpid():
            return None
        return None if channel in self._leaving else belief.epoch  # it is being given back

    def withdraw(self, channels: Collection[str]) -> Future[bool]:
        """Stands for them no more, and gives back what is led: known within a time-to-live.

        True: properly, so that whoever waits was told. False: the connection was lost with it,
        and the next one waits until the server has noticed.
        """
        with self._lock:
            futures = self._leave(channels)
            self._wake()
        return _all_true(futures)

    def _leave(self, channels: Iterable[str]) -> list[Future[bool]]:
        futures = []
        for channel in channels:
            self._standing.pop(channel, None)
            if channel in self._asked or channel in self._held or channel in self._leaving:
                futures.append(self._leaving.setdefault(channel, Future()))
        return futures

    def close(self, timeout: float | None = None) -> bool:
        """Withdraws from everything and hangs up; whether all was given back within `timeout`."""
        give_up = time.monotonic() + (self._ttl if timeout is None else timeout)
        with self._lock:
            self._is_closing = True
            withdrawn = _all_true(self._leave({*self._standing, *self._held, *self._leaving}))
            thread = self._thread
            self._wake()
        is_resigned = False
        with contextlib.suppress(TimeoutError):
            is_resigned = withdrawn.result(max(0.0, give_up - time.monotonic()))
        if thread is not None:
            thread.join(max(0.0, give_up - time.monotonic()))
        return is_resigned

    def _wake(self) -> None:
        """With the lock: the pipe has to be there still."""
        if self._direct is not None and self._process == os.getpid():
            self._direct.wake()

    # In the thread

    def _run(self) -> None:
        direct = self._direct
        assert direct is not None
        while not self._is_closing or self._leaving:
            try:
                self._turn(direct)
            except (PerdureError, psycopg.Error, OSError, _DoubtError) as error:
                self._lose(direct, error)
            except BaseException as error:  # a defect: nothing may be believed after it
                log.exception("an election of %s ends", self._name)
                self._lose(direct, PerdureError(f"an election has broken: {error}"))
                self._open_at = time.monotonic() + _LONGEST_BACKOFF
        with self._lock:
            self._direct = None  # nobody wakes it any more
        direct.close()

    def _turn(self, direct: Direct) -> None:
        """At most one statement, then what was heard."""
        now = time.monotonic()
        if any(belief.until <= now for belief in self._believed.values()):
            raise _DoubtError("leadership was not confirmed in time")
        if not direct.is_open:
            if now >= self._open_at and not self._is_closing:
                direct.open()
                self._confirm_at = time.monotonic() + self._period(direct)
                with self._lock:
                    for candidacy in self._standing.values():
                        candidacy.ask_at = 0.0  # nothing was heard meanwhile
            else:
                self._settle_leaving()
                if not self._is_closing:
                    direct.wait(self._open_at - now)
                return
        elif leaving := self._to_give_back():
            self._resign(direct, leaving)
        elif now >= self._confirm_at and (self._held or not direct.is_pooled):
            self._confirm(direct)
        elif channels := self._to_ask_for(now):
            self._ask(direct, channels)
        for event in direct.wait(self._idle_for(direct)):
            self._hear(event)

    def _idle_for(self, direct: Direct) -> float:
        now = time.monotonic()
        with self._lock:
            if self._is_closing or self._leaving:
                return 0.0
            due = [
                max(candidacy.ask_at, candidacy.not_before)
                for channel, candidacy in self._standing.items()
                if channel not in self._held
            ]
        if self._yielding:
            return 0.0
        if self._held or not direct.is_pooled:
            due.append(self._confirm_at)
        due += [belief.until for belief in self._believed.values()]
        return max(0.0, min([*due, now + _LONGEST_WAIT]) - now)

    def _run_call(self, direct: Direct, call: Call[T]) -> T:
        """No longer than any belief lasts, and so that the answer is worth something."""
        now = time.monotonic()
        within = min(
            [self._trust(direct), *(belief.until - now for belief in self._believed.values())]
        )
        answer = direct.run(call, within=within)
        self._failures = 0
        self.has_connected = True
        self.error = None
        if not self._held:
            self._confirm_at = now + self._period(direct)
        return answer

    def _time_to_live(self, direct: Direct) -> float:
        return self._lease_ttl if direct.is_pooled else self._ttl

    def _trust(self, direct: Direct) -> float:
        """How long an answer is believed, from before its question."""
        ttl = self._time_to_live(direct)
        return ttl - margin(ttl)

    def _period(self, direct: Direct) -> float:
        """How often the server has to hear of it."""
        is_candidate = not (self._held or direct.is_pooled)
        return (direct.patience if is_candidate else self._time_to_live(direct)) / 3

    # Standing

    def _to_ask_for(self, now: float) -> list[str]:
        """All that may be stood for, when any of it is due: one call."""
        with self._lock:
            able = {
                channel: candidacy
                for channel, candidacy in self._standing.items()
                if channel not in self._held and now >= candidacy.not_before
            }
            if all(candidacy.ask_at > now for candidacy in able.values()):
                return []
            self._asked = frozenset(able)
        return list(able)

    def _ask(self, direct: Direct, channels: list[str]) -> None:
        started = time.monotonic()
        answers = self._run_call(direct, self._elect_call(direct, channels))
        until = started + self._trust(direct)
        refused = []
        with self._lock:
            self._asked = frozenset()
            for answer in answers:
                candidacy = self._standing.get(answer.channel)
                if answer.epoch is not None:
                    self._held[answer.channel] = answer.epoch
                    if candidacy is None:  # withdrawn meanwhile
                        self._leaving.setdefault(answer.channel, Future())
                elif candidacy is not None:
                    refused.append(answer.channel)
                    self._ask_later(direct, candidacy, answer)
        if self._held:
            self._confirm_at = min(self._confirm_at, started + self._period(direct))
            if not direct.is_pooled:
                direct.patience = self._ttl  # from the moment it won
        for answer in answers:
            if answer.epoch is not None:
                self._begin(answer.channel, answer.epoch, until)
        for channel in refused:
            self._tell(self._on_refused, channel)
        self._settle_leaving()

    def _ask_later(self, direct: Direct, candidacy: _Candidacy, answer: _calls.Election) -> None:
        jitter = random.uniform(1 - _JITTER, 1)
        pause = self._retry * jitter
        candidacy.busy = candidacy.busy + 1 if answer.reason == "busy" else 0
        is_one_of_many = self._purpose == "sweep" and answer.reason == "held"
        if is_one_of_many and answer.wait is not None and not direct.is_pooled:
            pause = answer.wait * jitter  # a release is heard of
        elif answer.wait is not None:
            known = answer.wait * 2 ** min(max(0, candidacy.busy - 1), 10)
            pause = min(pause, known + random.uniform(0, answer.wait if candidacy.busy else 0.01))
        candidacy.ask_at = time.monotonic() + pause

    def _elect_call(self, direct: Direct, channels: list[str]) -> Call[list[_calls.Election]]:
        mode = "lease" if direct.is_pooled else "session"
        ttl = self._time_to_live(direct)
        return _calls.elect(channels, self.holder, mode, ttl, self._purpose, self._name)

    # Leading

    def _begin(self, channel: str, epoch: int, until: float) -> None:
        with self._lock:
            if channel not in self._standing:
                return
            if channel in self._leaving:  # withdrawn meanwhile, and stood for again: after that
                return
            if time.monotonic() >= until:  # the server would keep it for one who may not believe it
                raise _DoubtError("the answer came too late")
            self._believed[channel] = _Belief(epoch, until)
            if self._standing[channel].busy:
                self._standing[channel].busy = 0
        self._tell(self._on_change, channel, epoch)

    def _end(self, channels: Collection[str]) -> None:
        for channel in channels:
            if self._believed.pop(channel, None) is not None:
                self._tell(self._on_change, channel, None)

    def _tell(self, callback: Callable[..., object], *told: object) -> None:
        try:
            callback(*told)
        except Exception:
            log.exception("a callback of the election of %s failed", self._name)

    def _confirm(self, direct: Direct) -> None:
        """Asks whether what is held is held still; a lease is renewed by it."""
        started = time.monotonic()
        self._confirm_at = started + self._period(direct)
        held = dict(self._held)
        until = started + self._trust(direct)
        if direct.is_pooled:
            answers = self._run_call(direct, self._elect_call(direct, list(held)))
            confirmed = {answer.channel: answer.epoch == held[answer.channel] for answer in answers}
            self._yield([answer.channel for answer in answers if answer.reason == "unwanted"])
        else:
            confirmed = self._run_call(
                direct,
                _calls.ping(list(held), self.holder, list(held.values()), self._purpose),
            )
        if not all(confirmed.values()):
            lost = sorted(channel for channel, is_led in confirmed.items() if not is_led)
            raise _DoubtError(f"leadership was taken away: {lost[0]!r}")
        with self._lock:
            for channel, belief in self._believed.items():
                self._believed[channel] = _Belief(belief.epoch, until)

    # Giving back

    def _to_give_back(self) -> dict[str, int]:
        with self._lock:
            leaving = self._yielding | set(self._leaving)
        return {channel: self._held[channel] for channel in leaving if channel in self._held}

    def _yield(self, channels: Collection[str]) -> None:
        """Gives these back, and stands for them again once another may have won."""
        not_before = time.monotonic() + 1.5 * self._retry + 2 * _RELEASE_JITTER
        with self._lock:
            for channel in channels:
                if (candidacy := self._standing.get(channel)) is not None:
                    self._yielding.add(channel)
                    candidacy.not_before = not_before

    def _resign(self, direct: Direct, leaving: dict[str, int]) -> None:
        self._end(leaving)
        given = self._run_call(
            direct,
            _calls.resign(list(leaving), self.holder, list(leaving.values()), self._purpose),
        )
        if not all(given.values()):
            raise _DoubtError("leadership was taken away before it was given back")
        for event in direct.wait(0):  # of one's own release, above all
            self._hear(event)
        with self._lock:
            for channel in leaving:
                del self._held[channel]
                self._yielding.discard(channel)
        if direct.is_pooled:  # which lets no notification through
            for channel in leaving:
                self._tell(self._on_release, channel)
        self._settle_leaving()

    def _settle_leaving(self, *, lost: Collection[str] = ()) -> None:
        """Answers those whose channels are held no more."""
        with self._lock:
            done = {
                channel: self._leaving.pop(channel)
                for channel in list(self._leaving)
                if channel not in self._held
            }
        for channel, future in done.items():
            future.set_result(channel not in lost)

    def _lose(self, direct: Direct, error: Exception) -> None:
        """Concedes everything and hangs up: a statement without an answer may have had effect."""
        lost = set(self._held)
        self._end(list(self._believed))
        direct.hang_up()
        with self._lock:
            self._asked = frozenset()
            self._held.clear()
            self._yielding.clear()
        self._settle_leaving(lost=lost)
        self._failures += 1
        backoff = 0.0
        if self._failures > 1:
            backoff = min(_FIRST_BACKOFF * 2 ** min(self._failures - 2, 10), _LONGEST_BACKOFF)
        if isinstance(error, HotStandby):  # it may be promoted, but not soon
            backoff = _LONGEST_BACKOFF
        self._open_at = time.monotonic() + backoff * random.uniform(0.8, 1.2)
        if not self._is_closing:
            level = logging.DEBUG if self._failures > 1 and not lost else logging.WARNING
            log.log(level, "election of %s: %s", self._name, str(error).partition("\n")[0])
        self.error = error
        self._tell(self._on_error, error)

    # Hearing

    def _hear(self, event: Event) -> None:
        if event.purpose not in (self._purpose, None):
            return
        if event.event == "resign_please":
            self._yield([channel for channel in self._held if event.is_about(channel)])
        elif event.event == "released":
            now = time.monotonic()
            with self._lock:
                for channel, candidacy in self._standing.items():
                    if event.is_about(channel):
                        soon = now + random.uniform(0, _RELEASE_JITTER)
                        candidacy.ask_at = min(candidacy.ask_at, soon)
            for channel in event.channels or ():
                self._tell(self._on_release, channel)

    # Forks

    def forget(self) -> None:
        """In a forked process: leads nothing. (Its connection forgets by itself.)"""
        self._lock = threading.Lock()
        for known in (self._believed, self._held, self._standing, self._leaving):
            known.clear()
        self._is_closing = True
        self._direct = None
        self._thread = None


def check_settings(ttl: float, retry: float, name: str, lease_ttl: float = 1.0) -> None:
    """A leader is confirmed every third of a ttl, and concedes a margin before it is over."""
    for what, given in (("ttl", ttl), ("lease_ttl", lease_ttl)):
        if not _LEAST_TTL <= given <= _LONGEST_TTL:
            raise ValueError(
                f"{what} is {_LEAST_TTL:g} to {_LONGEST_TTL:g} seconds, got {given}: confirmations"
                " (every third of it) and the margin (a fifth, at least 0.1) have to fit into it"
            )
    if not _LEAST_RETRY <= retry <= _LONGEST_TTL:
        raise ValueError(f"retry is {_LEAST_RETRY:g} to {_LONGEST_TTL:g} seconds, got {retry}")
    check_name("holder", name)


def _all_true(futures: list[Future[bool]]) -> Future[bool]:
    """Done when all are; True when all are."""
    whole: Future[bool] = Future()
    whole.set_running_or_notify_cancel()  # it is not for its readers to end
    left = len(futures)
    lock = threading.Lock()

    def count(_: Future[bool]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        whole.set_result(all(future.result() for future in futures))

    if not futures:
        whole.set_result(True)
    for future in futures:
        future.add_done_callback(count)
    return whole


_elections: weakref.WeakSet[Election] | None = None


def _forget_in_forks(election: Election) -> None:
    global _elections
    if _elections is None:
        _elections = weakref.WeakSet()
        os.register_at_fork(after_in_child=_forget_all)
    _elections.add(election)


def _forget_all() -> None:
    for election in list(_elections or ()):
        election.forget()
