"""Threads for sync bodies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Job:
    """One call in a thread. Cancelling `outcome` stops the waiting for it, not the call."""

    __slots__ = ("call", "is_over", "outcome", "when_over")

    def __init__(self, call: Callable[[], Any], outcome: asyncio.Future[Any]) -> None:
        self.call = call
        self.outcome = outcome
        self.is_over = False
        self.when_over: Callable[[], None] | None = None  # called in the event loop


class Threads:
    """At most `limit` threads, all of them daemons: a body that never ends must not keep the
    process, while the threads of the standard library's executor are joined when it exits.

    What ends while the event loop is busy is delivered together, so it is woken once for many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._started = 0
        self._idle = threading.Semaphore(0)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ended: deque[tuple[Job, Any, BaseException | None]] = deque()
        self._is_told = False  # that something has ended
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, call: Callable[[], Any]) -> Job:
        """Begins the call; to be asked by the event loop that waits for its outcome."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        job = Job(call, self._loop.create_future())
        self._jobs.put(job)
        if not self._idle.acquire(blocking=False) and self._started < self._limit:
            self._started += 1
            name = f"perdure-{self._started}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        return job

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            value, failure = None, None
            try:
                value = job.call()
            except BaseException as error:
                failure = error
            self._ended.append((job, value, failure))
            if not self._is_told:
                self._is_told = True
                assert self._loop is not None
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._deliver)
            del job, value, failure
            self._idle.release()

    def _deliver(self) -> None:
        self._is_told = False  # before looking: what ends from here on tells again
        while self._ended:
            job, value, error = self._ended.popleft()
            job.is_over = True
            if job.when_over is not None:
                job.when_over()
            if job.outcome.done():  # cancelled: nobody waits
                continue
            if error is None:
                job.outcome.set_result(value)
            else:
                job.outcome.set_exception(error)

    def shutdown(self) -> None:
        """Lets each thread end once its body has."""
        for _ in range(self._started):
            self._jobs.put(None)
