"""What the client is made of when it blocks; `_aio` has the same names for when it awaits."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock as Lock
from time import sleep as sleep
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Until a thread has sent its call: it needs the interpreter's lock for that, which whoever began it
# would keep for milliseconds (`sys.getswitchinterval`).
_HEAD_START = 0.0001

P = ParamSpec("P")
T = TypeVar("T")

Connection: TypeAlias = psycopg.Connection[Any]
ConnectionClass = psycopg.Connection


class _Process:
    def __init__(self) -> None:
        self.pid = os.getpid()


_process = _Process()


def scope() -> Hashable:
    """Who may share a connection: the threads of one process, but not its forks."""
    global _process
    if _process.pid != os.getpid():
        _process = _Process()
    return _process


def begin(run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Has the call under way in a thread; `result` waits for its end."""
    pool = ThreadPoolExecutor(1, "perdure-call")
    try:
        future = pool.submit(run, *args, **kwargs)
    except RuntimeError:  # the interpreter is about to end, and begins no thread any more
        future = Future()
        future.set_result(run(*args, **kwargs))
    pool.shutdown(wait=False)
    sleep(_HEAD_START)
    return future


def result(future: Future[T]) -> T:
    """What a call that was begun returned."""
    return future.result()
