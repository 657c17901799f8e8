"""What a body may return besides a value: children to spawn, another run, the end of a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from perdure._unset import UNSET, Unset

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from perdure._task import Spawnable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spawn(Generic[T]):
    """The execution waits for these children; see `spawn`."""

    children: list[Spawnable]
    output: T
    finalize: Spawnable | None
    sequential: bool
    fail_fast: bool


@dataclass(frozen=True, slots=True)
class Again:
    """The same execution runs again; see `again`."""

    delay: float | timedelta | None
    input: Any | Unset


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A loop is done; see `done`."""

    output: T


@overload
def spawn(
    children: Iterable[Spawnable],
    *,
    finalize: Spawnable | None = None,
    sequential: bool = False,
    fail_fast: bool = False,
) -> Spawn[None]: ...
@overload
def spawn(
    children: Iterable[Spawnable],
    *,
    output: T,
    finalize: Spawnable | None = None,
    sequential: bool = False,
    fail_fast: bool = False,
) -> Spawn[T]: ...
def spawn(
    children: Iterable[Spawnable],
    *,
    output: Any = None,
    finalize: Spawnable | None = None,
    sequential: bool = False,
    fail_fast: bool = False,
) -> Spawn[Any]:
    """Return this from a body: the children are created as one with the parent's parking.

    `output` is the parent's own. `finalize` runs when all children have ended and decides the
    result. `sequential` runs one child at a time, each fed the previous output where it was
    given no input. `fail_fast` cancels the siblings of a child that does not complete.
    """
    return Spawn(list(children), output, finalize, sequential, fail_fast)


def again(*, delay: float | timedelta | None = None, input: Any | Unset = UNSET) -> Again:  # noqa: A002
    """Return this from a body: the same execution runs again, its attempts starting anew.

    Without `input` it keeps the one it has; `delay` is in seconds.
    """
    return Again(delay, input)


def done(output: T) -> Done[T]:
    """Return this from the body of a loop: it completes with this output."""
    return Done(output)
