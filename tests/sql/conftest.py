from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fix_engine import Engine


@pytest.fixture
def engine(conn: psycopg.Connection[Any]) -> Engine:
    """The engine over an autocommit session; a worker is registered when first asked for."""
    return Engine(conn)
