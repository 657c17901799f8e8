"""What `perdure migrate` does to a database that has something already."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_server import Connect, Server
from perdure import _schema
from perdure.errors import ClientNewer, PerdureError, SchemaNewer

Describe = Callable[[str], dict[tuple[str, str], str]]

VERSION = _schema.client_version()
MAJOR, MINOR, _PATCH = map(int, VERSION.split("."))
NEXT = f"{MAJOR}.{MINOR + 1}.0"
MIGRATIONS = tuple(_schema.migrations())


def _set_version(release: Path, version: str) -> None:
    file = release / "sql" / "00_schema" / "version.sql"
    file.write_text(file.read_text().replace(VERSION, version))
    _schema._version.cache_clear()  # a client does not change while it runs


def test_twice_changes_nothing(bare_db: str, connect: Connect, catalogue: Describe) -> None:
    conn = connect(bare_db)
    assert _schema.migrate(conn) == _schema.Migrated(None, VERSION, MIGRATIONS)
    first = catalogue(bare_db)
    assert _schema.migrate(conn) == _schema.Migrated(VERSION, VERSION, ())
    assert catalogue(bare_db) == first


def test_the_session_is_left_as_it_was(bare_db: str, connect: Connect) -> None:
    conn = connect(bare_db)
    query = "select name, setting from pg_settings where source = 'session' order by 1"
    before = conn.execute(query).fetchall()
    _schema.migrate(conn)
    _schema.migrate(conn)
    assert conn.execute(query).fetchall() == before


def test_what_was_dropped_or_changed_by_hand_is_put_right(
    bare_db: str, connect: Connect, catalogue: Describe
) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    wanted = catalogue(bare_db)
    conn.execute(
        f"""
        drop function perdure.version();
        create function perdure.version(x int) returns text language sql as 'select ''0''';
        create function perdure.version() returns text language sql as 'select ''{VERSION}''';
        create function perdure.left_over() returns int language sql as 'select 1';
        create procedure perdure.left_over(x int) language sql as 'select 1';
        create view perdure.left_behind as select 1 as x;
        drop function perdure.cancel(bigint, text);
        create function perdure.cancel(x bigint, y text) returns int language sql as 'select 1';
        grant execute on all functions in schema perdure to public;
        """.encode()
    )
    _schema.migrate(conn)
    assert catalogue(bare_db) == wanted


def test_a_migration_runs_once_and_is_recorded(
    bare_db: str, connect: Connect, catalogue: Describe, server: Server, release: Path
) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    conn.execute("select perdure.enqueue('a')")

    _set_version(release, NEXT)
    table = release / "sql" / "20_tables" / "zebra.sql"
    table.write_text(
        "-- Stripes.\n\ncreate table perdure.zebra (id int primary key, stripes int);\n"
    )
    (release / "migrations" / "9001_zebra.sql").write_text(
        "create table perdure.zebra (id int primary key);\n"
        "alter table perdure.zebra add column stripes int;\n"
    )
    assert _schema.migrate(conn) == _schema.Migrated(VERSION, NEXT, ("9001_zebra",))
    assert _schema.migrate(conn) == _schema.Migrated(NEXT, NEXT, ())
    names = conn.execute("select name from perdure.migration order by 1").fetchall()
    assert names == [(name,) for name in (*MIGRATIONS, "9001_zebra")]
    assert conn.execute("select count(*) from perdure.executions").fetchone() == (1,)

    with server.database("template0") as fresh:
        installed = connect(fresh)
        assert _schema.migrate(installed).before is None
        assert _schema.migrate(installed).migrations == ()
        assert catalogue(fresh) == catalogue(bare_db)
        installed.close()


def test_a_failing_migration_leaves_everything_as_it_was(
    bare_db: str, connect: Connect, catalogue: Describe, release: Path
) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    before = catalogue(bare_db)
    _set_version(release, NEXT)
    (release / "migrations" / "9001_good.sql").write_text("create table perdure.good (id int);\n")
    (release / "migrations" / "9002_bad.sql").write_text("select 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        _schema.migrate(conn)
    assert catalogue(bare_db) == before
    assert conn.execute("select perdure.version()").fetchone() == (VERSION,)


def test_what_others_built_upon_is_not_torn_down(
    bare_db: str, connect: Connect, catalogue: Describe, release: Path
) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    conn.execute("create view mine as select * from perdure.tree_progress(1)")
    before = catalogue(bare_db)
    (file,) = (release / "sql").glob("*/tree_progress.sql")
    file.write_text(
        "-- Other columns.\n\n"
        "create or replace function perdure.tree_progress(root bigint) returns table (x int)\n"
        "language sql stable set search_path = '' as 'select 1';\n"
    )
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="tree_progress"):
        _schema.migrate(conn)
    assert catalogue(bare_db) == before
    conn.execute("drop view mine")
    _schema.migrate(conn)
    assert conn.execute("select x from perdure.tree_progress(1)").fetchall() == [(1,)]


def test_concurrent_migrators_wait_for_one_another(bare_db: str, connect: Connect) -> None:
    found: list[_schema.Migrated] = []
    threads = [
        threading.Thread(target=lambda conn: found.append(_schema.migrate(conn)), args=[session])
        for session in [connect(bare_db) for _ in range(4)]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.before or "" for each in found) == ["", *[VERSION] * 3]


def test_a_locked_table_stops_a_migration_instead_of_the_database(
    bare_db: str, connect: Connect, release: Path
) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    (release / "migrations" / "9001_x.sql").write_text("alter table perdure.task add x int;\n")
    holder = connect(bare_db, autocommit=False)
    holder.execute("select * from perdure.task")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        _schema.migrate(conn, lock_timeout_ms=50)
    holder.rollback()
    assert _schema.migrate(conn).migrations == ("9001_x",)


@pytest.mark.parametrize(
    ("installed", "error", "advice"),
    [
        (NEXT, SchemaNewer, "upgrade the client"),
        (f"{MAJOR + 1}.0.0", SchemaNewer, "upgrade the client"),
        (f"{MAJOR}.{MINOR - 1}.99", ClientNewer, "upgrade the schema"),
        (None, ClientNewer, "perdure migrate"),
    ],
)
def test_a_mismatch_says_which_side_to_upgrade(
    bare_db: str, connect: Connect, installed: str | None, error: type[PerdureError], advice: str
) -> None:
    conn = connect(bare_db)
    if installed:
        _schema.migrate(conn)
        _install_version(conn, installed)
    with pytest.raises(error, match=advice) as raised:
        _schema.check_version(conn)
    assert raised.value.sqlstate == ("QD031" if error is SchemaNewer else "QD032")


def test_a_patch_release_fits(bare_db: str, connect: Connect) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    _install_version(conn, f"{MAJOR}.{MINOR}.99")
    _schema.check_version(conn)


def test_migrate_does_not_go_back(bare_db: str, connect: Connect) -> None:
    conn = connect(bare_db)
    _schema.migrate(conn)
    _install_version(conn, f"{MAJOR}.{MINOR}.99")
    with pytest.raises(SchemaNewer, match="upgrade the client"):
        _schema.migrate(conn)


def _install_version(conn: psycopg.Connection[Any], version: str) -> None:
    conn.execute(
        f"create or replace function perdure.version() returns text"
        f" language sql immutable parallel safe return '{version}'".encode()
    )
