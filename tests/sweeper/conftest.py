"""The engine and its sessions, each test with a database of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_sessions import Sessions

Until = Callable[..., None]


@pytest.fixture
def engine(conn: psycopg.Connection[Any]) -> Engine:
    return Engine(conn)


@pytest.fixture
def sessions(db: str) -> Iterator[Sessions]:
    """Opens sessions beside the engine's own, each with a thread."""
    opened = Sessions(db)
    yield opened
    opened.close()


@pytest.fixture
def until() -> Until:
    """Asks until the answer is true."""

    def ask(is_so: Callable[[], Any], within: float = 30) -> None:
        end = time.monotonic() + within
        while not is_so():
            assert time.monotonic() < end, "it did not become true"
            time.sleep(0.01)

    return ask
