"""Programs with a channel lock, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fix_machines import Machine, Program

SCRIPT = Path(__file__).parent / "leadership" / "lock_app.py"

StartLock = Callable[..., "LockProgram"]


class LockProgram(Program):
    """`lock_app.py`: a lock in a process of its own."""

    def acquired(self, **given: float) -> tuple[int, str, float]:
        """Epoch, holder and time of its next election."""
        epoch, holder, at = self.expect("acquired", **given).split()
        return int(epoch), holder, float(at)

    def asks(self, command: str) -> str:
        self.say(command)
        return self.answer()[0]

    def answer(self) -> tuple[str, float]:
        """What a command answered, and when."""
        what, _, at = self.expect("=").rpartition(" ")
        return what, float(at)


def names_of(dsn: str) -> dict[str, str]:
    """The database as the environment of a process."""
    given = {**conninfo_to_dict(dsn)}
    given["database"] = given.pop("dbname")
    return {f"PG{word.upper()}": str(value) for word, value in given.items()}


@pytest.fixture
def start_lock() -> Iterator[StartLock]:
    """Starts programs with a lock; they end with the test."""
    started: list[LockProgram] = []

    def start(
        dsn: str, channel: str = "news", *options: str, machine: Machine | None = None
    ) -> LockProgram:
        prefix = machine.prefix if machine else []
        names = names_of(machine.dsn(dsn) if machine else dsn)
        program = LockProgram(SCRIPT, channel, *options, names=names, prefix=prefix)
        started.append(program)
        program.expect("ready")
        return program

    yield start
    for program in started:
        program.close()


@pytest.fixture
def start_async_lock() -> Iterator[Callable[[str], Program]]:
    """Starts a program that holds the lock of `news` in an event loop."""
    started: list[Program] = []

    def start(dsn: str) -> Program:
        started.append(Program(SCRIPT.with_name("async_lock_app.py"), names=names_of(dsn)))
        return started[-1]

    yield start
    for program in started:
        program.close()


def make_written(dsn: str) -> Callable[[], list[tuple[Any, ...]]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table written (epoch bigint, holder uuid)")

    def read() -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as conn:
            return conn.execute("select epoch, holder::text from written order by 1").fetchall()

    return read
