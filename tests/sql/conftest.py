from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_sessions import Sessions


@pytest.fixture
def engine(conn: psycopg.Connection[Any]) -> Engine:
    """The engine over an autocommit session; a worker is registered when first asked for."""
    return Engine(conn)


@pytest.fixture
def sessions(db: str) -> Iterator[Sessions]:
    """Opens sessions beside the engine's own, each with a thread."""
    opened = Sessions(db)
    yield opened
    opened.close()
