"""Sharded queues: workers of them, and who owns what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from fix_engine import Engine, Lease, Row
from fix_sessions import Session, Sessions


@dataclass(slots=True)
class Member:
    """A worker with a session of its own, which is its life in session mode."""

    session: Session
    incarnation: str
    id: int
    machine_id: int

    def claim(self, max: int = 1, **options: Any) -> list[Lease]:  # noqa: A002
        return self.session.claim(max, self.incarnation, **options)

    def claim_ids(self, max: int = 100, **options: Any) -> list[int]:  # noqa: A002
        return [lease.id for lease in self.claim(max, **options)]

    def claim_one(self, id: int) -> Lease:  # noqa: A002
        (lease,) = self.claim(100)
        assert lease.id == id
        return lease

    def report(self, lease: Lease, outcome: str, **fields: Any) -> str:
        return self.session.report(lease, outcome, worker=self.incarnation, **fields).result

    def complete(self, *leases: Lease) -> None:
        for lease in leases:
            assert self.report(lease, "completed") == "recorded"

    def exchange(self, outcomes: list[Row] | None = None, **given: Any) -> Row:
        return self.session.row("exchange", self.incarnation, outcomes, **given)

    def acquire(self, numbers: list[int] | None = None, queue: str = "q") -> dict[int, int]:
        rows = self.session.rows("acquire_shards", self.incarnation, queue, numbers)
        return {row["number"]: row["epoch"] for row in rows}

    def refresh(self, numbers: list[int], queue: str = "q") -> list[int]:
        """Those that are still its own."""
        rows = self.session.rows("refresh_shards", self.incarnation, queue, numbers)
        assert [row["number"] for row in rows] == sorted(set(numbers))
        return [row["number"] for row in rows if row["is_held"]]


class Shards:
    """The queue `q` and others, sharded; workers die at once when their sign of life is gone."""

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        self.engine = engine
        self._sessions = sessions
        engine.run("update perdure.config set restart_grace = '0', worker_grace = '0'")

    def make(self, shards: int = 8, queue: str = "q", **options: Any) -> None:
        self.engine.value("shard_queue", queue, shards=shards, **options)

    def join(self, name: str = "w", queues: tuple[str, ...] = ("q",), **options: Any) -> Member:
        """A worker registers; the next sweep gives it its shards."""
        session = self._sessions.open()
        incarnation = str(session.value("register_worker", name, list(queues), **options))
        (row,) = self.engine.query(
            "select id, machine_id from perdure.worker where incarnation = %s", incarnation
        )
        self.engine.row("sweep")
        return Member(session, incarnation, row["id"], row["machine_id"])

    def kill(self, member: Member) -> None:
        """Its session ends; the next sweeps notice."""
        self.engine.lose_worker(member.session.conn)
        self.engine.row("sweep")
        self.engine.row("sweep")

    def enqueue(
        self, shard_key: str, times: int = 1, task: str = "task", **options: Any
    ) -> list[int]:
        items = [{"queue": "q", "task": task, "shard_key": shard_key, **options}] * times
        rows = self.engine.rows("enqueue_many", items)
        assert [row["message"] for row in rows] == [None] * times
        return [row["id"] for row in rows]

    def one(self, shard_key: str, **options: Any) -> int:
        (id_,) = self.enqueue(shard_key, **options)
        return id_

    def owners(self, queue: str = "q") -> dict[int, int | None]:
        rows = self.engine.query(
            "select number, worker_id from perdure.shard where queue = %s order by number", queue
        )
        return {row["number"]: row["worker_id"] for row in rows}

    def counts(self, queue: str = "q") -> Counter[int | None]:
        return Counter(self.owners(queue).values())

    def shard_of(self, key: str, queue: str = "q") -> int:
        return int(self.engine.one("select perdure._shard_of(%s, %s)", queue, key))

    def held(self) -> list[int]:
        rows = self.engine.query("select id from perdure.ready where is_held order by id")
        return [row["id"] for row in rows]

    def turns(self) -> list[int]:
        return [row["id"] for row in self.engine.query("select id from perdure.turn order by id")]


@pytest.fixture
def engine(conn: Any) -> Engine:
    return Engine(conn)


@pytest.fixture
def sessions(db: str) -> Any:
    opened = Sessions(db)
    yield opened
    opened.close()


@pytest.fixture
def shards(engine: Engine, sessions: Sessions) -> Shards:
    return Shards(engine, sessions)
