"""Fixtures for everything: a server per run, a database of its own for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_server import Connect, Server, open_server
from perdure import _schema

pytest_plugins = ["fix_coverage", "fix_machines"]

CountStatements = Callable[["psycopg.Connection[Any]"], None]


class Clock:
    """The database's clock under the test's control; it runs again after `reset`."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    def now(self) -> datetime:
        row = self._conn.execute("select perdure._clock()").fetchone()
        assert row
        return row[0].astimezone(UTC)  # type: ignore[no-any-return]

    def set(self, at: datetime) -> None:
        """Stop the clock at a moment."""
        self._conn.execute("update perdure.test_clock set at = %s", [at])

    def advance(self, seconds: float) -> datetime:
        """Stop the clock that much after what it shows; returns the new time."""
        at = self.now() + timedelta(seconds=seconds)
        self.set(at)
        return at

    def reset(self) -> None:
        self._conn.execute("update perdure.test_clock set at = null")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The run's PostgreSQL server, with a template database that has the schema installed."""
    with open_server() as server:
        template = server.create("template0")
        with psycopg.connect(template, autocommit=True) as conn:
            conn.execute(_schema.install_sql().encode())
            conn.execute((Path(__file__).parent / "sql" / "clock.sql").read_bytes())
            if server.is_profiled:
                conn.execute("create extension plpgsql_check")
        server.template = template
        yield server


@pytest.fixture(scope="session")
def psql(server: Server) -> str:
    """The program psql: the server's own, else the machine's."""
    places = [os.environ["PATH"]]
    if server.local is not None:
        row = server.admin.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
        assert row
        places.insert(0, row[0])
    program = shutil.which("psql", path=os.pathsep.join(places))
    if program is None:
        pytest.skip("psql is not installed")
    return program


@pytest.fixture
def db(
    server: Server, count_statements: CountStatements, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The DSN of a database of the test's own; afterwards `fsck` must find nothing."""
    with server.database(server.template) as dsn:
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            marker = request.node.get_closest_marker("fsck")
            found = []
            if marker is None or marker.args[0]:
                found = conn.execute("select * from perdure.fsck()").fetchall()
            if server.is_profiled:
                count_statements(conn)
            assert not found, f"fsck: {found}"


@pytest.fixture
def bare_db(server: Server) -> Iterator[str]:
    """The DSN of an empty database."""
    with server.database("template0") as dsn:
        yield dsn


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Opens sessions on the test's database (or any DSN), autocommit unless told otherwise."""
    sessions: list[psycopg.Connection[Any]] = []

    def open_session(
        dsn: str | None = None, *, autocommit: bool = True, **options: Any
    ) -> psycopg.Connection[Any]:
        conn = psycopg.connect(
            dsn or request.getfixturevalue("db"), autocommit=autocommit, **options
        )
        sessions.append(conn)
        return conn

    yield open_session
    for session in sessions:
        session.close()


@pytest.fixture
def conn(db: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit session on the test's database."""
    with psycopg.connect(db, autocommit=True) as session:
        yield session


@pytest.fixture
def clock(db: str) -> Iterator[Clock]:
    with psycopg.connect(db, autocommit=True) as session:
        yield Clock(session)
