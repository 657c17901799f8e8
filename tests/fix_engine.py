"""The engine as psql has it: its functions and tables over one session, nothing of the client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Row = dict[str, Any]
Dump = dict[str, list[str]]

# Everything that an execution's life can touch.
ROOMS = ("scheduled", "ready", "running", "waiting", "finished")
TABLES = (*ROOMS, "execution", "parked", "step", "closing", "key", "deadline", "attempt", "task")


@dataclass(frozen=True, slots=True)
class Lease:
    id: int
    token: int
    task: str = ""
    attempt: int = 0
    input: Any = None
    timeout_ms: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


class Result(NamedTuple):
    """What finish() says of one outcome."""

    result: str
    code: str | None
    message: str | None


class Engine:
    """With `savepoints`, a statement that fails does not end the transaction around it."""

    def __init__(self, conn: psycopg.Connection[Any], *, savepoints: bool = False) -> None:
        self.conn = conn
        self._savepoints = savepoints
        self._worker: str | None = None

    # One function, one statement ------------------------------------------------------------------

    def rows(self, function: str, *given: Any, **named: Any) -> list[Row]:
        """`select * from perdure.function(…)`; objects and lists of objects go as jsonb."""
        values = [_adapted(value) for value in (*given, *named.values())]
        arguments = [sql.Placeholder()] * len(given) + [
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in named
        ]
        query = sql.SQL("select * from perdure.{}({})").format(
            sql.Identifier(function), sql.SQL(", ").join(arguments)
        )
        with self._statement() as cursor:
            return cursor.execute(query, values).fetchall()

    def row(self, function: str, *given: Any, **named: Any) -> Row:
        (row,) = self.rows(function, *given, **named)
        return row

    def value(self, function: str, *given: Any, **named: Any) -> Any:
        (value,) = self.row(function, *given, **named).values()
        return value

    def query(self, query: str, *given: Any) -> list[Row]:
        with self._statement() as cursor:
            return cursor.execute(query.encode(), given or None).fetchall()

    def one(self, query: str, *given: Any) -> Any:
        (row,) = self.query(query, *given)
        (value,) = row.values()
        return value

    def run(self, query: str, *given: Any) -> None:
        with self._statement() as cursor:
            cursor.execute(query.encode(), given or None)

    @contextmanager
    def _statement(self) -> Iterator[psycopg.Cursor[Row]]:
        with self.conn.transaction() if self._savepoints else nullcontext():
            with self.conn.cursor(row_factory=dict_row) as cursor:
                yield cursor

    # A life ---------------------------------------------------------------------------------------

    @property
    def worker(self) -> str:
        """A worker for any task of the queue `default`; its life is this session's."""
        if self._worker is None:
            self._worker = str(self.value("register_worker", "tests"))
        return self._worker

    def enqueue(self, task: str = "task", input: Any = None, **options: Any) -> int:  # noqa: A002
        given = Jsonb({} if input is None else input)
        return cast("int", self.value("enqueue", task, given, **options))

    def claim(self, max: int = 1, worker: str | None = None, **options: Any) -> list[Lease]:  # noqa: A002
        rows = self.rows("claim_ready", worker or self.worker, max=max, **options)
        return [Lease(**{**row, "extra": row["extra"] or {}}) for row in rows]

    def start(self, task: str = "task", input: Any = None, **options: Any) -> Lease:  # noqa: A002
        """Enqueue an execution and claim it, whatever else stands in the line."""
        id = self.enqueue(task, input, **options)  # noqa: A001
        return self.claim_one(id)

    def claim_one(self, id: int) -> Lease:  # noqa: A002
        """Claim this execution, which has to be the first of its task."""
        task = self.one("select task from perdure.execution where id = %s", id)
        (lease,) = self.claim(tasks=[task])
        assert lease.id == id
        return lease

    def finish(self, *outcomes: Any, worker: str | None = None) -> list[Result]:
        rows = self.rows("finish", worker or self.worker, Jsonb(list(outcomes)))
        return [Result(row["result"], row["code"], row["message"]) for row in rows]

    def report(
        self, lease: Lease, outcome: str, *, worker: str | None = None, **fields: Any
    ) -> Result:
        (result,) = self.finish(outcome_of(lease, outcome, **fields), worker=worker)
        return result

    def complete(self, lease: Lease, output: Any = None) -> None:
        assert self.report(lease, "completed", output=output).result == "recorded"

    def fail(self, lease: Lease, message: str = "boom", **error: Any) -> None:
        fault = {"type": "ValueError", "message": message, **error}
        assert self.report(lease, "failed", error=fault).result == "recorded"

    def spawn(self, lease: Lease, children: Sequence[Any], **fields: Any) -> list[int]:
        """Park the lease's execution with these children (a string is a task's name); their ids."""
        items = [{"task": child} if isinstance(child, str) else child for child in children]
        assert self.report(lease, "spawned", children=items, **fields).result == "recorded"
        return [row["id"] for row in self.rows("children", lease.id, max=1_000_000)]

    def advance(self, seconds: float) -> None:
        """Stop the engine's clock that much after what it shows."""
        self.run(
            "update perdure.test_clock set at = perdure._clock() + %s * interval '1 second'",
            seconds,
        )

    def stop_clock(self) -> Any:
        """Stop the engine's clock; what it shows from then on."""
        self.advance(0)
        return self.one("select perdure._clock()")

    def lose_worker(self, other: psycopg.Connection[Any]) -> None:
        """Kill the session of a worker, and wait until its lock is free."""
        assert self.one("select pg_terminate_backend(%s, 60000)", other.info.backend_pid)

    # What is known of it --------------------------------------------------------------------------

    def get(self, id: int) -> Row:  # noqa: A002
        return self.row("get_execution", id)

    def status(self, id: int) -> str:  # noqa: A002
        return cast("str", self.get(id)["status"])

    def statuses(self, ids: Sequence[int]) -> list[str]:
        return [self.status(one) for one in ids]

    def room(self, id: int) -> str:  # noqa: A002
        (room,) = (
            room for room in ROOMS if self.query(f"select from perdure.{room} where id = %s", id)
        )
        return room

    def dump(self) -> Dump:
        """Every row of every table that a transition may change."""
        return {
            table: [
                row["row"]
                for row in self.query(f"select t::text as row from perdure.{table} as t order by 1")
            ]
            for table in TABLES
        }

    def fsck(self) -> list[Row]:
        return self.rows("fsck")

    def close_all(self, max: int = 1000) -> int:  # noqa: A002
        """Call close_batch until it finds nothing; how many calls found something."""
        passes = 0
        while self.value("close_batch", max):
            passes += 1
        return passes


def outcome_of(lease: Lease, outcome: str, **fields: Any) -> Row:
    return {"id": lease.id, "token": lease.token, "outcome": outcome, **fields}


def _adapted(value: Any) -> Any:
    if isinstance(value, dict):
        return Jsonb(value)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return Jsonb(value)
    return value
