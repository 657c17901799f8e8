"""What a worker has in a thread of its own, however busy its bodies are: its life and its ears.

One connection, apart from the one that exchanges: its session lock shows that the worker lives,
kept honest by the server, which ends the session when nothing was heard of it for the worker's
time-to-live. Behind a pooler a lease is renewed instead, and nothing can be heard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg

from perdure import _calls, _schema
from perdure._direct import Direct, Event
from perdure.errors import CannotConnect, PerdureError, WorkerGone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("perdure")

_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 1.0
_COUNTED_EVERY = 5.0  # at least: nobody tells when peers come and go
_PATIENCE = 5.0  # for the thread to end


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker tells of itself."""

    name: str
    queues: Sequence[str]
    tasks: Sequence[str]
    ttl: float  # seconds
    weight: int = 1


class Control:
    """Registers a worker, shows that it lives, hears what is told; begins with `start`.

    `hear` is called from the thread of this, with each event, and with one of its own making
    whenever something may have been missed.
    """

    def __init__(
        self, dsn: str | None, registration: Registration, hear: Callable[[Event], None]
    ) -> None:
        self._registration = registration
        self._hear = hear
        # the server's patience ends a little earlier: a sweep needs its time too
        self.patience = registration.ttl - min(0.5, registration.ttl / 4)
        self._direct = Direct(dsn, "perdure control", ttl=self.patience)
        self._thread = threading.Thread(target=self._run, name="perdure-control", daemon=True)
        self._guard = threading.Lock()
        self._incarnation: UUID | None = None
        self._mode = ""
        self._waiting: list[Future[UUID]] = []
        self._failure: Exception | None = None  # why the thread ended before it ever registered
        self._is_over = False
        self._is_leaving = False
        self._is_stopping = False
        self._wakes_others = False
        self.is_hearing = False
        self.peers = 1  # workers that could do what this one does, itself included

    # From other threads

    def start(self) -> None:
        self._thread.start()

    def registered(self, instead_of: UUID | None = None) -> Future[UUID]:
        """The worker's incarnation; a new one where the engine no longer knows `instead_of`."""
        future: Future[UUID] = Future()
        with self._guard:
            if self._incarnation is not None and self._incarnation != instead_of:
                future.set_result(self._incarnation)
                return future
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            self._waiting.append(future)
            self._is_over = self._incarnation is not None
        self._direct.wake()
        return future

    def wake_others(self) -> None:
        """Has idle workers asked to look for work."""
        self._wakes_others = True
        self._direct.wake()

    def leave(self) -> None:
        """From now on the worker unregisters itself: it is not registered anew."""
        self._is_leaving = True

    def stop(self) -> None:
        """Ends the thread and its session."""
        self._is_stopping = True
        self._direct.wake()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        if not self._thread.is_alive():
            self._direct.close()

    # In the thread

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF
        was_known = False
        while not self._is_stopping:
            try:
                self._open()
                was_known, backoff = True, _FIRST_BACKOFF
                self._attend()
            except WorkerGone:
                if self._is_leaving:
                    break
                with self._guard:
                    self._incarnation = None
            except Exception as error:  # whatever it is: without this thread the worker is dead
                if not was_known:
                    self._fail(error)
                    break
                is_defect = not isinstance(error, psycopg.Error | PerdureError | OSError)
                level = logging.WARNING if self.is_hearing or is_defect else logging.DEBUG
                reason = str(error).partition("\n")[0]
                log.log(level, "control session: %s", reason, exc_info=is_defect)
                if self.is_hearing:
                    self.is_hearing = False
                    self._hear(Event("ready"))  # it polls more often from now on
                self._direct.hang_up()
                with contextlib.suppress(psycopg.Error):
                    self._direct.wait(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
        self._direct.hang_up()

    def _open(self) -> None:
        """Connects where there is no connection; registers, or shows that it still lives."""
        if not self._direct.is_open:
            self._direct.open()
        mode = "lease" if self._direct.is_pooled else "session"
        incarnation = self._incarnation
        if incarnation is not None and mode != self._mode:
            raise WorkerGone("the way to the database has changed: registering anew")
        if incarnation is None:
            self._mode = mode
            self.peers = 1
            given = self._registration
            incarnation = self._direct.run(
                _calls.register_worker(
                    given.name,
                    given.queues,
                    given.tasks,
                    _about_this_process(),
                    uuid4(),
                    mode,
                    given.ttl,
                    given.weight,
                ),
                within=given.ttl,
            )
        else:
            ping = _calls.ping_worker(incarnation)
            self.peers = self._direct.run(ping, within=self._registration.ttl)
        self.is_hearing = not self._direct.is_pooled
        with self._guard:
            self._incarnation, self._is_over = incarnation, False
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(incarnation)
        self._hear(Event("ready"))  # what was told before now went unheard
        self._hear(Event("gone"))

    def _attend(self) -> None:
        every = min(self._registration.ttl / 3, _COUNTED_EVERY)
        ping_at = time.monotonic() + every
        while not self._is_stopping:
            for event in self._direct.wait(ping_at - time.monotonic()):
                if event.event == "shards":  # of which one may be this worker's now
                    self.peers = 1
                self._hear(event)
            if self._is_over:
                raise WorkerGone("the engine no longer knows this worker")
            if self._wakes_others:
                self._wakes_others = False
                try:
                    self._direct.run(_calls.notify_ready(None), within=every)
                except BaseException:
                    self._wakes_others = True
                    raise
            if time.monotonic() >= ping_at:
                assert self._incarnation is not None
                self.peers = self._direct.run(_calls.ping_worker(self._incarnation), within=every)
                ping_at = time.monotonic() + every

    def _fail(self, error: Exception) -> None:
        if isinstance(error, psycopg.OperationalError):
            error = CannotConnect(f"cannot connect to the database: {error}")
        with self._guard:
            self._failure = error
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)


def _about_this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "perdure": _schema.client_version(),
    }
