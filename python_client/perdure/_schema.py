"""The schema's SQL texts, and bringing a database to them.

A fresh database gets every file of `sql/` in lexical order. An existing one gets the missing
migrations and then everything but the files that run once, whole: functions, views and privileges
cannot drift. Either happens in one transaction, under a lock that makes concurrent migrators wait.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from psycopg import Connection, errors
from psycopg.rows import scalar_row, tuple_row

from perdure.errors import ClientNewer, PerdureError, SchemaNewer

# What calling a function of the schema fails with where there is no schema.
NOT_INSTALLED = (errors.InvalidSchemaName, errors.UndefinedFunction)

VERSION_QUERY = "select perdure.version()"

_ONCE = ("00_schema/", "20_tables/")
_VERSION_FILE = "00_schema/version.sql"
_PRIVILEGES = "90_access/"
_VERSION = re.compile(r"(?:select|return) '(\d+\.\d+\.\d+[^']*)'")
_DEFINES = re.compile(r"^create or replace (function|procedure|view) perdure\.(\w+)", re.MULTILINE)
_MIGRATE_LOCK = 0x7065726475726500  # "perdure\0": one migrator at a time in a database


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` found and did. `before` is None for a fresh install."""

    before: str | None
    after: str
    migrations: tuple[str, ...]


@cache
def _root() -> Path:
    packaged = Path(__file__).parent / "_sql"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2]


def _files() -> dict[str, str]:
    """`folder/name.sql` → text, in load order."""
    sql = _root() / "sql"
    names = sorted(path.relative_to(sql).as_posix() for path in sql.glob("*/*.sql"))
    return {name: (sql / name).read_text(encoding="utf-8") for name in names}


def _reapplied() -> dict[str, str]:
    return {
        name: text
        for name, text in _files().items()
        if name == _VERSION_FILE or not name.startswith(_ONCE)
    }


def client_version() -> str:
    """The version of the schema that this client brings, which is also its own."""
    return _version(_root() / "sql" / _VERSION_FILE)


@cache
def _version(file: Path) -> str:
    found = _VERSION.search(file.read_text(encoding="utf-8"))
    assert found, f"no version in {file}"
    return found[1]


def migrations() -> dict[str, str]:
    """Name → text of every migration, in order."""
    folder = _root() / "migrations"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql"))}


def _record(name: str) -> str:
    return f"insert into perdure.migration (name) values ('{name}');\n"


def install_sql() -> str:
    """What a fresh database gets; byte for byte the released `perdure.sql`."""
    return "".join(_files().values()) + "".join(map(_record, migrations()))


def reapply_sql() -> str:
    """What every upgrade runs again after the migrations: functions, views, privileges."""
    return "".join(_reapplied().values())


def not_installed() -> ClientNewer:
    return ClientNewer("the database has no schema perdure: run `perdure migrate`")


def judge_version(found: str | None) -> None:
    """Raise unless a schema of version `found` (None: there is none) fits this client."""
    mine = client_version()
    if found is None:
        raise not_installed()
    if _release(found) > _release(mine):
        raise _too_new(found)
    if _release(found) < _release(mine):
        raise ClientNewer(
            f"the schema is {found}, older than this client, {mine}:"
            " upgrade the schema (`perdure migrate`)"
        )


def check_version(conn: Connection[Any]) -> None:
    """Raise SchemaNewer or ClientNewer unless the schema in the database fits this client."""
    judge_version(_installed(conn))


def migrate(conn: Connection[Any], *, lock_timeout_ms: int = 10_000) -> Migrated:
    """Bring the database to this client's schema, in one transaction; what is there stays."""
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", [_MIGRATE_LOCK])
        conn.execute("select set_config('lock_timeout', %s, true)", [str(lock_timeout_ms)])
        conn.execute("set local client_min_messages = warning")
        done = _bring(conn)
        conn.execute("reset check_function_bodies")  # which sql/ turns off for its load order
        return done


def _bring(conn: Connection[Any]) -> Migrated:
    before, mine = _installed(conn), client_version()
    if before is None:
        _run(conn, install_sql())
        return Migrated(None, mine, tuple(migrations()))
    if _numbers(before) > _numbers(mine):
        raise _too_new(before)
    if not _is_extension(conn):
        return Migrated(before, mine, _upgrade(conn))
    if before == mine:
        return Migrated(before, mine, ())
    raise PerdureError(
        "perdure is installed as an extension here: run `alter extension perdure update` instead"
    )


def _upgrade(conn: Connection[Any]) -> tuple[str, ...]:
    seen = _column(conn, "select name from perdure.migration")
    missing = {name: text for name, text in migrations().items() if name not in seen}
    for name, text in missing.items():
        _run(conn, text)
        _run(conn, _record(name))
    files = _reapplied()
    old = _routines(conn)
    for name, text in files.items():
        if not name.startswith(_PRIVILEGES):
            _reapply(conn, text, old)
    # Every routine that belongs has been written anew; a privilege would touch the others too.
    _drop_routines(conn, old)
    views = {name for text in files.values() for kind, name in _defines(text) if kind == "view"}
    for name in _column(
        conn,
        "select relname from pg_class"
        " where relnamespace = 'perdure'::regnamespace and relkind = 'v'",
    ):
        if name not in views:
            _run(conn, f'drop view perdure."{name}"')
    for name, text in files.items():
        if name.startswith(_PRIVILEGES):
            _run(conn, text)
    return tuple(missing)


def _reapply(conn: Connection[Any], text: str, old: dict[int, _Routine]) -> None:
    """Run one file. What it defines under another signature or shape is dropped.

    Fails, naming them, where other objects depend on that: then a migration has to drop it.
    """
    defined = _defines(text)
    names = {name for kind, name in defined if kind != "view"}
    try:
        with conn.transaction():
            _run(conn, text)
    except (errors.InvalidFunctionDefinition, errors.InvalidTableDefinition):
        _drop_routines(conn, old, names)
        for kind, name in defined:
            if kind == "view":
                _run(conn, f'drop view if exists perdure."{name}"')
        _run(conn, text)
    _drop_routines(conn, old, names)


@dataclass(frozen=True, slots=True)
class _Routine:
    name: str
    identity: str
    written: str  # the transaction that wrote its catalogue row last


def _routines(conn: Connection[Any]) -> dict[int, _Routine]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select oid, proname, oid::regprocedure::text, xmin::text from pg_proc"
            " where pronamespace = 'perdure'::regnamespace"
        )
        return {oid: _Routine(*rest) for oid, *rest in cursor}


def _drop_routines(
    conn: Connection[Any], old: dict[int, _Routine], names: set[str] | None = None
) -> None:
    """Drop the routines (of these names) that are still as they were before the upgrade."""
    for oid, routine in _routines(conn).items():
        if routine == old.get(oid) and (names is None or routine.name in names):
            _run(conn, f"drop routine {routine.identity}")


def _defines(text: str) -> list[tuple[str, str]]:
    return _DEFINES.findall(text)


def _installed(conn: Connection[Any]) -> str | None:
    """The version of the schema in the database, None where there is none."""
    if _column(conn, "select to_regprocedure('perdure.version()')::text") == [None]:
        return None
    return str(_column(conn, VERSION_QUERY)[0])


def _is_extension(conn: Connection[Any]) -> bool:
    return bool(_column(conn, "select 1 from pg_extension where extname = 'perdure'"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _release(version: str) -> tuple[int, ...]:
    """Schemas and clients of one release (major.minor) fit each other."""
    return _numbers(version)[:2]


def _too_new(found: str) -> SchemaNewer:
    return SchemaNewer(
        f"the schema is {found}, newer than this client, {client_version()}:"
        " upgrade the client (`pip install --upgrade perdure`)"
    )


def _run(conn: Connection[Any], text: str) -> None:
    conn.execute(text.encode(), prepare=False)


def _column(conn: Connection[Any], query: str) -> list[Any]:
    with conn.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
