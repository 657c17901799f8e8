from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_server import Server
from fix_sessions import Sessions


@pytest.fixture(scope="session")
def shared(
    server: Server, count_statements: Callable[[psycopg.Connection[Any]], None]
) -> Iterator[Engine]:
    """The engine over a database in which nothing is ever committed."""
    with server.database(server.template) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        yield Engine(conn)
        if server.is_profiled:
            count_statements(conn)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The engine; a worker is registered when first asked for.

    A test that needs several sessions, is slow, or stands in a folder of its own has a database
    of its own. The hundreds of others share one, each in a transaction that is rolled back after
    `fsck` found nothing.
    """
    needs_own = (
        {"connect", "db"} & set(request.fixturenames)
        or request.node.get_closest_marker("slow")
        or request.path.parent != Path(__file__).parent
    )
    if needs_own:
        yield Engine(request.getfixturevalue("conn"))
        return
    conn = request.getfixturevalue("shared").conn
    marker = request.node.get_closest_marker("fsck")
    with conn.transaction(force_rollback=True):
        engine = Engine(conn, savepoints=True)
        yield engine
        found = engine.fsck() if marker is None or marker.args[0] else []
    assert not found, f"fsck: {found}"


@pytest.fixture
def sessions(db: str) -> Iterator[Sessions]:
    """Opens sessions beside the engine's own, each with a thread."""
    opened = Sessions(db)
    yield opened
    opened.close()
