"""However the schema is installed, it is the same."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fix_server import Connect, Server
from perdure import _schema
from perdure.errors import PerdureError

Catalogue = dict[tuple[str, str], str]
Describe = Callable[[str], Catalogue]


@pytest.fixture
def migrated(bare_db: str, connect: Connect, catalogue: Describe) -> Catalogue:
    _schema.migrate(connect(bare_db))
    return catalogue(bare_db)


def test_the_built_file_is_what_migrate_runs(make: Callable[..., str], root: Path) -> None:
    make("perdure.sql")
    assert (root / "build" / "perdure.sql").read_text() == _schema.install_sql()


def test_psql_gives_the_same_catalogue(
    server: Server,
    make: Callable[..., str],
    root: Path,
    psql: str,
    migrated: Catalogue,
    catalogue: Describe,
) -> None:
    make("perdure.sql")
    with server.database("template0") as dsn:
        done = subprocess.run(
            [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", "build/perdure.sql"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert catalogue(dsn) == migrated


@pytest.fixture
def extension(make: Callable[..., str], programs: Path) -> Iterator[None]:
    """`make install` for the run's server; one test of the machine at a time."""
    pg_config = programs / "pg_config"
    if not pg_config.exists():
        pytest.skip(f"the server's programs have no pg_config: {programs}")
    target = _folder_of_extensions(programs)
    if not os.access(target, os.W_OK):
        pytest.skip(f"{target} is not writable for this user")
    with (Path(tempfile.gettempdir()) / f"perdure-test-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / "perdure.control").exists():
            pytest.skip(f"the extension is installed in {target} already")
        make("install", f"PG_CONFIG={pg_config}")
        try:
            yield
        finally:
            make("uninstall", f"PG_CONFIG={pg_config}")
        assert not list(target.glob("perdure*"))


def _restore(programs: Path, source: str, target: str) -> None:
    dumped = subprocess.run(
        [programs / "pg_dump", source], capture_output=True, text=True, check=True
    ).stdout
    subprocess.run(
        [programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target],
        input=dumped,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _folder_of_extensions(programs: Path) -> Path:
    shared = subprocess.check_output([programs / "pg_config", "--sharedir"], text=True).strip()
    return Path(shared) / "extension"


@pytest.mark.usefixtures("extension")
def test_the_extension_gives_the_same_catalogue_and_keeps_its_rows(
    server: Server, migrated: Catalogue, catalogue: Describe, connect: Connect, programs: Path
) -> None:
    with server.database("template0") as dsn, server.database("template0") as restored:
        conn = connect(dsn)
        conn.execute("create extension perdure")
        assert catalogue(dsn) == migrated

        # migrate leaves an extension alone
        assert _schema.migrate(conn).migrations == ()
        assert catalogue(dsn) == migrated

        # a dump has the executions, and their numbers go on
        conn.execute("select perdure.enqueue('a'), perdure.enqueue('b', delay => '1 hour')")
        _restore(programs, dsn, restored)
        again = connect(restored)
        query = "select task, status, input from perdure.executions order by id"
        assert again.execute(query).fetchall() == conn.execute(query).fetchall()
        assert again.execute("select perdure.enqueue('c')").fetchone() == (3,)


@pytest.mark.usefixtures("extension")
def test_the_extension_of_0_1_0_becomes_this_one(
    server: Server,
    migrated: Catalogue,
    catalogue: Describe,
    connect: Connect,
    programs: Path,
    root: Path,
    release_text: bytes,
) -> None:
    tail = root / "tools" / "extension_tail.sql"
    old = _folder_of_extensions(programs) / "perdure--0.1.0.sql"
    old.write_bytes(release_text + tail.read_bytes())
    with server.database("template0") as dsn, server.database("template0") as restored:
        conn = connect(dsn)
        conn.execute("create extension perdure version '0.1.0'")
        conn.execute("select perdure.enqueue('a'), perdure.enqueue('b', delay => '1 hour')")
        with pytest.raises(PerdureError, match="alter extension perdure update"):
            _schema.migrate(conn)

        conn.execute("alter extension perdure update")
        assert catalogue(dsn) == migrated
        assert _schema.migrate(conn).before == _schema.client_version()
        assert connect(dsn).execute("select perdure.enqueue('c')").fetchone() == (3,)

        # a dump has what the new tables hold, and nothing that CREATE EXTENSION writes itself
        conn.execute("select perdure.shard_queue('q')")
        _restore(programs, dsn, restored)
        again = connect(restored)
        for table in ("execution", "ready", "scheduled", "shard_queue", "shard", "retention"):
            query = f"select t::text from perdure.{table} as t order by 1".encode()
            assert again.execute(query).fetchall() == conn.execute(query).fetchall() != []

        # all of it belongs to the extension
        conn.execute("drop extension perdure")
        assert conn.execute("select to_regnamespace('perdure')").fetchone() == (None,)


@pytest.mark.usefixtures("extension")
def test_the_database_owner_can_create_the_extension(server: Server, connect: Connect) -> None:
    server.admin.execute("drop role if exists perdure_test_owner")
    server.admin.execute("create role perdure_test_owner login")
    with server.database("template0") as dsn:
        conn = connect(dsn)
        name = conn.info.dbname
        conn.execute(f"alter database {name} owner to perdure_test_owner".encode())
        conn.execute("set role perdure_test_owner")
        conn.execute("create extension perdure")
        conn.close()
    server.admin.execute("drop role perdure_test_owner")


def test_make_install_honours_destdir(
    make: Callable[..., str], programs: Path, tmp_path: Path
) -> None:
    pg_config = programs / "pg_config"
    if not pg_config.exists():
        pytest.skip(f"the server's programs have no pg_config: {programs}")
    make("install", f"PG_CONFIG={pg_config}", f"DESTDIR={tmp_path}")
    found = {path.name for path in tmp_path.rglob("extension/*")}
    version = _schema.client_version()
    assert found == {
        "perdure.control",
        f"perdure--{version}.sql",
        f"perdure--0.1.0--{version}.sql",
    }
    make("uninstall", f"PG_CONFIG={pg_config}", f"DESTDIR={tmp_path}")
    assert not list(tmp_path.rglob("extension/*"))


def test_the_wheel_brings_the_sql(root: Path, tmp_path: Path) -> None:
    import sys

    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"perdure-{_schema.client_version()}-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    # Not measured: it is another copy of the package.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    printed = subprocess.check_output(
        [sys.executable, "-c", "import perdure._schema as s; print(s.__file__, s.install_sql())"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path / "unpacked")},
        text=True,
    )
    assert printed == f"{tmp_path}/unpacked/perdure/_schema.py {_schema.install_sql()}\n"


def test_reinstalling_with_psql_is_refused_at_once(
    bare_db: str, connect: Connect, migrated: Catalogue, catalogue: Describe
) -> None:
    with pytest.raises(psycopg.errors.DuplicateSchema):
        connect(bare_db).execute(_schema.install_sql().encode())
    assert catalogue(bare_db) == migrated
