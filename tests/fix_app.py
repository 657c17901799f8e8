"""Fixtures for tests that play a whole application: an app, workers inside and outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure import App

PATIENCE = 20.0


@pytest.fixture
async def app(db: str) -> AsyncIterator[App]:
    """An app on the test's database."""
    app = App(db)
    yield app
    await app.close()


async def eventually(is_so: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """Asks until the answer is true; for states of which nobody tells."""
    give_up = time.monotonic() + within
    while True:
        answer = is_so()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < give_up, f"{is_so} was not true within {within} s"
        await asyncio.sleep(0.01)


def hang_up(conn: psycopg.Connection[Any], application: str = "perdure worker") -> int:
    """Ends the sessions of workers."""
    ended = conn.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = %s and datname = current_database()",
        [application],
    ).fetchall()
    return len(ended)


class WorkerProcess:
    """A worker in a process of its own, running `worker_app`; it prints a line for each event."""

    def __init__(self, dsn: str, *arguments: str) -> None:
        script = Path(__file__).parent / "worker" / "worker_app.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "DATABASE_URL": dsn, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def expect(self, line: str) -> str:
        """Reads on until a line that starts so; what follows on it."""
        assert self._process.stdout is not None
        for told in self._process.stdout:
            if told.startswith(line):
                return told.removeprefix(line).strip()
        raise AssertionError(f"no {line!r} before the end of the process: {self.errors()}")

    def errors(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.send(signal.SIGTERM)

    def join(self) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def start_worker(db: str) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts worker processes on the test's database; they end with the test."""
    started: list[WorkerProcess] = []

    def start(*arguments: str) -> WorkerProcess:
        started.append(WorkerProcess(db, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.close()
