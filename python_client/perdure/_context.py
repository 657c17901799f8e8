"""The context of the running body: who it is, what went before, and whether it should stop."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from perdure.errors import Cancelled
from perdure.records import StoredError

if TYPE_CHECKING:
    from datetime import datetime

_guard = threading.Lock()
_NOTHING: dict[str, Any] = {}


class Signal:
    """A flag that is raised once: a thread can wait for it, and so can a coroutine."""

    __slots__ = ("_is_set", "_loop_event", "_thread_event")

    def __init__(self) -> None:
        self._is_set = False
        self._thread_event: threading.Event | None = None  # made for the first who waits
        self._loop_event: asyncio.Event | None = None

    def set(self) -> None:
        """Raises the flag; called in the worker's event loop."""
        with _guard:
            self._is_set = True
            if self._thread_event is not None:
                self._thread_event.set()
            if self._loop_event is not None:
                self._loop_event.set()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks a sync body for at most `timeout` seconds; true when the flag is up."""
        with _guard:
            if self._is_set:
                return True
            if self._thread_event is None:
                self._thread_event = threading.Event()
        return self._thread_event.wait(timeout)

    async def wait_async(self) -> None:
        """Suspends an async body until the flag is up."""
        with _guard:
            if self._is_set:
                return
            if self._loop_event is None:
                self._loop_event = asyncio.Event()
        await self._loop_event.wait()


class Context:
    """What a body may know of its execution; `current()` gives it."""

    __slots__ = (
        "_cancelled",
        "_extra",
        "attempt",
        "execution_id",
        "shutting_down",
        "task",
    )

    def __init__(
        self,
        execution_id: int,
        task: str,
        attempt: int,
        extra: dict[str, Any] | None,
        shutting_down: Signal,
    ) -> None:
        self.execution_id = execution_id
        self.task = task
        self.attempt = attempt  # 1, 2, 3 ...
        self.shutting_down = shutting_down
        self._cancelled: Signal | None = None  # made for the first who asks
        self._extra = extra or _NOTHING

    @property
    def cancelled(self) -> Signal:
        """Raised when this attempt should stop: cancelled, timed out, or taken away."""
        if self._cancelled is None:
            with _guard:
                if self._cancelled is None:
                    self._cancelled = Signal()
        return self._cancelled

    @property
    def root_id(self) -> int:
        root: int = self._extra.get("root_id", self.execution_id)
        return root

    @property
    def parent_id(self) -> int | None:
        return self._extra.get("parent_id")

    @property
    def position(self) -> int | None:
        """The place among the parent's children, from 0."""
        return self._extra.get("position")

    @property
    def is_finalize(self) -> bool:
        return bool(self._extra.get("is_finalize", False))

    @property
    def iteration(self) -> int:
        """How often `again` was returned before."""
        iteration: int = self._extra.get("iteration", 0)
        return iteration

    @property
    def crashes(self) -> int:
        """How often a worker died while running this execution."""
        crashes: int = self._extra.get("crashes", 0)
        return crashes

    @property
    def key(self) -> str | None:
        return self._extra.get("key")

    @property
    def shard_key(self) -> str | None:
        """Executions with the same one run one at a time, by id."""
        return self._extra.get("shard_key")

    @property
    def queue(self) -> str:
        queue: str = self._extra.get("queue", "default")
        return queue

    @property
    def headers(self) -> dict[str, Any]:
        return self._extra.get("headers") or {}

    @property
    def tags(self) -> list[str]:
        return self._extra.get("tags") or []

    @property
    def deadline_at(self) -> datetime | None:
        from datetime import datetime

        text = self._extra.get("deadline_at")
        return None if text is None else datetime.fromisoformat(text)

    @property
    def previous_error(self) -> StoredError | None:
        """Why the previous attempt ended, None at the first."""
        return StoredError.from_json(self._extra.get("error"))

    @property
    def is_cancelled(self) -> bool:
        """True when this attempt should stop: cancelled, timed out, or taken away."""
        return self._cancelled is not None and self._cancelled.is_set()

    @property
    def is_shutting_down(self) -> bool:
        """True once the worker was asked to stop; the attempt may still finish."""
        return self.shutting_down.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled when this attempt should stop."""
        if self.is_cancelled:
            raise Cancelled


_current: ContextVar[Context] = ContextVar("perdure_context")


def current() -> Context:
    """The context of the running body; LookupError outside of one."""
    try:
        return _current.get()
    except LookupError:
        raise LookupError("current() was called outside of a task's body") from None


def enter(context: Context) -> None:
    """Makes the context current in this task or thread context."""
    _current.set(context)
