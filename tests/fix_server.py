"""The server that the tests run on: DATABASE_URL, Docker when asked for, local programs, the wheel.

PERDURE_TEST_DOCKER=1 asks for Docker, PERDURE_TEST_IMAGE names the image.
PERDURE_TEST_BINDIR names other server programs.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from perdure._server import THROW_AWAY, LocalServer, find_binaries

Connect = Callable[..., "psycopg.Connection[Any]"]


class Server:
    """A server on which tests make and drop databases."""

    def __init__(self, dsn: str, local: LocalServer | None = None) -> None:
        self.dsn = dsn
        self.local = local
        self.template = ""
        self.is_profiled = False
        self._numbers = itertools.count(1)
        self._admin: psycopg.Connection[Any] | None = None

    @property
    def admin(self) -> psycopg.Connection[Any]:
        if self._admin is None or self._admin.closed:
            self._admin = psycopg.connect(self.dsn, autocommit=True)
        return self._admin

    @property
    def major(self) -> int:
        return self.admin.info.server_version // 10_000

    def create(self, template: str) -> str:
        """A new database, copied from `template` (a DSN of ours, or a name); its DSN."""
        name = f"perdure_test_{os.getpid()}_{next(self._numbers)}"
        source = conninfo_to_dict(template).get("dbname") if "=" in template else template
        self.admin.execute(
            sql.SQL("create database {} template {} strategy {}").format(
                sql.Identifier(name),
                sql.Identifier(str(source)),
                # Copying files wins where nothing has to reach the disk, and only there.
                sql.SQL("file_copy" if self.local else "wal_log"),
            )
        )
        return make_conninfo(self.dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        self.admin.execute(sql.SQL("drop database if exists {} with (force)").format(name))

    @contextmanager
    def database(self, template: str) -> Iterator[str]:
        dsn = self.create(template)
        try:
            yield dsn
        finally:
            self.drop(dsn)

    def restart(self) -> None:
        """Restart the server under the same DSN; skips the test where it is not ours."""
        if self.local is None:
            pytest.skip("this test restarts the server, and it is not a local one")
        self.close()
        self.local.restart()

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()


@contextmanager
def open_server() -> Iterator[Server]:
    if url := os.environ.get("DATABASE_URL"):
        opened = _external(url)
    elif os.environ.get("PERDURE_TEST_DOCKER") == "1":
        opened = _docker()
    else:
        opened = _local()
    with opened as server:
        try:
            yield server
        finally:
            if server.local is None and server.template:
                server.drop(server.template)
            server.close()


@contextmanager
def _external(url: str) -> Iterator[Server]:
    yield Server(url)


@contextmanager
def _docker() -> Iterator[Server]:
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("PERDURE_TEST_IMAGE", "postgres:18")
    try:
        container = PostgresContainer(image, driver=None)
    except DockerException as error:
        pytest.skip(f"PERDURE_TEST_DOCKER=1, but Docker does not answer: {error}")
    with container:
        yield Server(container.get_connection_url())


@contextmanager
def _local() -> Iterator[Server]:
    named = os.environ.get("PERDURE_TEST_BINDIR")
    folder = Path(tempfile.mkdtemp(prefix="perdure-test-", dir=fast_place()))
    binaries = Path(named) if named else find_binaries()
    local = LocalServer(folder, binaries=binaries, settings=THROW_AWAY)
    try:
        with local:
            server = Server(local.dsn, local)
            server.is_profiled = _profile(server)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fast_place() -> str | None:
    """Where files cost least: shared memory, if there is room; None: the usual place."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30:
        return str(memory)
    return None


def _profile(server: Server) -> bool:
    """Have plpgsql_check count every executed PL/pgSQL statement, where it is installed."""
    if not server.admin.execute(
        "select 1 from pg_available_extensions where name = 'plpgsql_check'"
    ).fetchone():
        return False
    server.admin.execute("alter system set shared_preload_libraries = plpgsql, plpgsql_check")
    server.restart()
    server.admin.execute("alter system set plpgsql_check.profiler = on")
    server.admin.execute("select pg_reload_conf()")
    return True
