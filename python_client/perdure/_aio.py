"""What the client is made of when it awaits; `_blocking` has the same names for when it blocks."""

from __future__ import annotations

import asyncio
from asyncio import Lock as Lock
from asyncio import sleep as sleep
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

P = ParamSpec("P")
T = TypeVar("T")

Connection: TypeAlias = psycopg.AsyncConnection[Any]
ConnectionClass = psycopg.AsyncConnection


def scope() -> Hashable:
    """Who may share a connection: those in one event loop."""
    return asyncio.get_running_loop()


async def begin(
    run: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Task[T]:
    """Has the call under way, as far as its first wait; `result` waits for its end."""
    task = asyncio.create_task(run(*args, **kwargs))
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        task.cancel()
        raise
    return task


async def result(task: asyncio.Task[T]) -> T:
    """What a call that was begun returned."""
    return await task
