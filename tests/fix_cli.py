"""The command line in this process and in others, with an app of its own in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure.cli import main

SHOP = """
from __future__ import annotations

from perdure import App, Finalize, Spawn, spawn

app = App()
other = object()


@app.task(queue="mail", max_attempts=2, retry_delay=0.01)
async def send_email(to: str) -> str:
    if to == "nobody":
        raise ValueError("no such\\naddress")
    return f"sent to {to}"


@app.task
async def campaign(names: list[str]) -> Spawn[None]:
    return spawn([send_email.call(to=name) for name in names], finalize=summarise)


@app.task
async def summarise(given: Finalize) -> dict[str, int]:
    return {"sent": sum(child.is_completed for child in given.children)}


@app.sleeping(timeout=3600)
def approval(order: int) -> bool: ...
"""


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with the app `shop:app`; no database is named."""
    for name in list(os.environ):
        if name.startswith(("PG", "PERDURE_")) and name != "PG_BINDIR":
            monkeypatch.delenv(name)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "broken.py").write_text("raise RuntimeError('half-\\nway')\n")
    return tmp_path


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run(*args: object) -> Answer:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def database(db: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's database, named by the environment."""
    monkeypatch.setenv("DATABASE_URL", db)
    return db


@contextmanager
def running(*args: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own; TERM ends it."""
    with subprocess.Popen(
        [sys.executable, "-m", "perdure", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def shop(database: str) -> Iterator[subprocess.Popen[str]]:
    """A worker of `shop:app` that is known to run."""
    with running("worker", "shop:app") as process:
        until(lambda: workers_of(database))
        yield process


def workers_of(dsn: str) -> list[tuple[str, list[str]]]:
    """Name and queues of the workers that are registered."""
    with psycopg.connect(dsn) as conn:
        return conn.execute("select w.name, w.queues from perdure.worker as w").fetchall()


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
