"""Watched tables: how one is declared, and what a worker does so that all of them are in place."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

import psycopg

from perdure import _calls
from perdure._task import Task, check_name
from perdure.errors import InvalidArgument, InvalidName, PerdureError, WatchBusy
from perdure.records import Operation, Watch

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from perdure._calls import Call
    from perdure.records import WatchRepair

T = TypeVar("T")

log = logging.getLogger("perdure")

OPERATIONS: tuple[Operation, ...] = get_args(Operation)


def declare(
    table: str,
    task: str | Task[..., Any, Any],
    *,
    columns: Sequence[str] | None,
    condition: str | None,
    operations: Sequence[Operation],
    queue: str | None,
) -> Watch:
    """A watch of which everything is right that can be known without the database."""
    name = task.name if isinstance(task, Task) else task
    check_name("task", name)
    if queue is not None:
        check_name("queue", queue)
    if not isinstance(table, str) or not table or "\0" in table:
        raise InvalidName(f"table is {table!r}, not the name of one", hint="as in SQL: app.orders")
    if condition is not None and not isinstance(condition, str):
        raise InvalidArgument(f"condition is {condition!r}, not an SQL expression over new and old")
    wanted = _names("operations", operations)
    if not wanted or not set(wanted) <= set(OPERATIONS):
        raise InvalidArgument(f"operations are {wanted!r}, but some of {', '.join(OPERATIONS)}")
    narrowed = None if columns is None else _names("columns", columns)
    if narrowed is not None and (not narrowed or "update" not in wanted):
        raise InvalidArgument(
            "columns narrow updates: name some, and have update among the operations"
        )
    return Watch(
        table=table,
        task=name,
        columns=narrowed,
        condition=condition,
        operations=tuple(known for known in OPERATIONS if known in wanted),
        queue=queue,
    )


def _names(what: str, given: Any) -> tuple[str, ...]:
    names = () if isinstance(given, str) else tuple(given)
    if isinstance(given, str) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"{what} is {given!r}, not a sequence of names")
    return names


class Run(Protocol):
    """Sends a call over some connection and returns its answer."""

    def __call__(self, call: Call[T], /) -> T: ...


class Watches:
    """The watches that an app declares, put in place and kept so.

    For a thread that calls `tend` now and then: what cannot be had this time is told once and left
    for the next time. Only a lost connection is raised.
    """

    def __init__(self, declared: Iterable[Watch]) -> None:
        self._missing = list(declared)
        self._told: set[Hashable] = set()

    @property
    def are_in_place(self) -> bool:
        return not self._missing

    def tend(self, run: Run) -> None:
        """Puts in place what is not, and mends the triggers of every watch that is broken."""
        self.install(run)
        self.repair(run)

    def install(self, run: Run) -> bool:
        """Asks for the declared watches that are not in place yet; true when all of them are."""
        for watch in list(self._missing):
            try:
                run(_calls.watch_table(watch))
            except (PerdureError, psycopg.Error) as error:
                if _is_lost(error):
                    raise
                # a sister that starts at the same moment does the same
                level = logging.INFO if isinstance(error, WatchBusy) else logging.WARNING
                reason = str(error).partition("\n")[0]
                self._tell(level, watch, "cannot watch %s for %s: %s", reason)
            else:
                self._missing.remove(watch)
                log.info("watching %s for %s", watch.table, watch.task)
        return self.are_in_place

    def repair(self, run: Run) -> list[WatchRepair]:
        """Mends the triggers of all watches, whoever asked for them; what was found broken."""
        try:
            found = run(_calls.repair_watches(None))
        except (PerdureError, psycopg.Error) as error:
            if _is_lost(error):
                raise
            self._tell_once(
                logging.WARNING, "repair", "cannot look after watched tables: %s", error
            )
            return []
        for each in found:
            level = logging.INFO if each.result in ("repaired", "busy") else logging.WARNING
            key = None if each.is_repaired else each
            message = "trigger of %s for %s (%s) is broken (%s): %s"
            parts = (each.table, each.task, each.operation, each.problem, each.result)
            self._tell_once(level, key, message, *parts)
        return found

    def _tell(self, level: int, watch: Watch, message: str, reason: str) -> None:
        self._tell_once(level, watch, message, watch.table, watch.task, reason)

    def _tell_once(self, level: int, key: Hashable, message: str, *parts: object) -> None:
        """What was told before is told at level debug; key None: always."""
        log.log(logging.DEBUG if key in self._told else level, message, *parts)
        if key is not None:
            self._told.add(key)


def _is_lost(error: Exception) -> bool:
    """Whether it is the connection that failed."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in ("08", "57")
