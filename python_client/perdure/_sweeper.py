"""The housekeeping that a worker does while it is elected for it: one pass for all its channels.

In a thread and over a connection of its own: a pass may take a while, and must hold up neither the
signs of life nor an election. Whether elected or not, it puts the watches that its app declares in
place; the elected one also mends broken ones.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import psycopg

from perdure import _calls
from perdure._direct import Direct
from perdure._election import Election
from perdure._watches import Watches
from perdure.errors import Fenced, PerdureError

if TYPE_CHECKING:
    from collections.abc import Collection

    from perdure._calls import Call
    from perdure.records import Watch

log = logging.getLogger("perdure")

T = TypeVar("T")

_EVERY = 0.25
_WATCHES_EVERY = 5.0
_LONGEST_PAUSE = 0.5  # while there is more to set aside
_PATIENCE = 30.0  # with one pass, and with a silent server
_LIMIT = 1000
_ASIDE_SHARE = 10  # to set aside gets a tenth of the time: claims pass over what is foreign
_GRACE = 5.0  # for the thread to end


class Sweeper:
    """Stands for the housekeeping of channels and does it when elected; begins with `start`."""

    def __init__(
        self, dsn: str | None, name: str, channels: Collection[str], watches: Collection[Watch]
    ) -> None:
        self._channels = sorted(set(channels))
        self._watches = Watches(watches)
        self._direct = Direct(dsn, "perdure sweeper", ttl=_PATIENCE, ears=None)
        self._election = Election(
            dsn, purpose="sweep", name=name, on_change=lambda *_: self._direct.wake()
        )
        self._thread = threading.Thread(target=self._run, name="perdure-sweeper", daemon=True)
        self._watches_at = 0.0
        self._is_stopping = False
        self._is_failing = False

    def start(self) -> None:
        if self._channels:
            self._election.stand(self._channels)
        self._thread.start()

    def stop(self) -> None:
        """Ends after the pass that is under way, and lets the next one in."""
        self._is_stopping = True
        self._direct.wake()
        if self._thread.ident is not None:
            self._thread.join(_GRACE)
        self._election.close()
        if not self._thread.is_alive():
            self._direct.close()

    def led(self) -> dict[str, int]:
        """The channels that it sweeps at this moment, with their epochs."""
        epochs = {channel: self._election.lead(channel) for channel in self._channels}
        return {channel: epoch for channel, epoch in epochs.items() if epoch is not None}

    def _run(self) -> None:
        while not self._is_stopping:
            led = self.led()
            try:
                self._see_to_watches(is_elected=bool(led))
                pause = self._pass(led) if led else self._pause(is_elected=False)
                self._is_failing = False
                if pause:
                    self._direct.wait(pause)
            except Fenced:  # elected anew, or soon told otherwise
                self._direct.wait(_EVERY)
            except Exception as error:  # whatever it is: it is elected, so nobody else sweeps
                level = logging.DEBUG if self._is_failing else logging.WARNING
                is_defect = not isinstance(error, psycopg.Error | PerdureError | OSError)
                reason = str(error).partition("\n")[0]
                log.log(level, "sweep: %s", reason, exc_info=is_defect)
                self._is_failing = True
                self._direct.hang_up()
                self._direct.wait(_EVERY)
        self._direct.hang_up()

    def _pause(self, *, is_elected: bool) -> float:
        if is_elected:
            return _EVERY * random.uniform(0.8, 1.2)
        return _PATIENCE if self._watches.are_in_place else _WATCHES_EVERY

    def _pass(self, led: dict[str, int]) -> float:
        """One pass; seconds until the next one."""
        began = time.monotonic()
        call = _calls.sweep_led(list(led), self._election.holder, list(led.values()), _LIMIT)
        done = self._call(call)
        if not done.more:
            return self._pause(is_elected=True)
        urgent = max(done.promoted, done.recovered, done.timed_out, done.closed)
        if urgent < _LIMIT and urgent < done.moved:
            return min(_LONGEST_PAUSE, (_ASIDE_SHARE - 1) * (time.monotonic() - began))
        return 0.0

    def _see_to_watches(self, *, is_elected: bool) -> None:
        if time.monotonic() < self._watches_at or (self._watches.are_in_place and not is_elected):
            return
        self._watches_at = time.monotonic() + _WATCHES_EVERY
        if is_elected:
            self._watches.tend(self._call)
        else:
            self._watches.install(self._call)

    def _call(self, call: Call[T]) -> T:
        if not self._direct.is_open:
            self._direct.open()
        return self._direct.run(call, within=_PATIENCE)
