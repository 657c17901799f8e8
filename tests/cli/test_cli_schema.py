from __future__ import annotations

import psycopg
import pytest

from fix_cli import Run
from fix_server import Connect
from perdure import _schema


def test_migrate_installs_and_then_finds_nothing_missing(
    perdure: Run, bare_db: str, connect: Connect
) -> None:
    url = ("--database-url", bare_db)
    version = _schema.client_version()

    first = perdure("migrate", *url)
    assert first.code == 0
    assert first.out.startswith(f"installed schema {version} in database perdure_test_")
    assert connect(bare_db).execute("select perdure.version()").fetchone() == (version,)

    again = perdure("migrate", *url)
    assert f"schema {version} in database" in again.out
    assert "no migration was missing" in again.out
    assert perdure("migrate", *url, "--json").document == {
        "before": version,
        "after": version,
        "migrations": [],
    }


def test_sql_without_a_database_is_the_whole_install(perdure: Run) -> None:
    answer = perdure("sql")
    assert (answer.code, answer.out) == (0, _schema.install_sql())


def test_sql_is_what_migrate_would_run(perdure: Run, bare_db: str, connect: Connect) -> None:
    conn = connect(bare_db)
    fresh = perdure("sql", "--database-url", bare_db)
    assert fresh.out == _schema.install_sql()
    conn.execute(fresh.out.encode())

    again = perdure("sql", "--database-url", bare_db, "--json").document
    version = _schema.client_version()
    assert again == {"before": version, "after": version, "sql": _schema.reapply_sql()}
    conn.execute(again["sql"].encode())


@pytest.mark.parametrize(
    ("schema", "command", "words"),
    [
        ("99.0.0", "list", "upgrade the client"),
        ("99.0.0", "sql", "upgrade the client"),
        ("99.0.0", "migrate", "upgrade the client"),
        ("0.0.9", "list", "perdure migrate"),
    ],
)
def test_versions_that_do_not_fit_say_which_to_upgrade(
    perdure: Run, database: str, schema: str, command: str, words: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "create or replace function perdure.version() returns text"
            f" language sql immutable parallel safe return '{schema}'".encode()
        )
    answer = perdure(command)
    assert answer.code == 2
    assert words in answer.err
    assert answer.err.count("\n") == 1


def test_sql_of_an_older_schema_brings_it_to_this_version(perdure: Run, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "create or replace function perdure.version() returns text"
            " language sql immutable parallel safe return '0.0.9'"
        )
    assert perdure("sql", "--json").document["before"] == "0.0.9"
    migrated = perdure("migrate")
    assert f"schema 0.0.9 to {_schema.client_version()} in" in migrated.out


def test_version_needs_no_database(perdure: Run) -> None:
    version = _schema.client_version()
    assert perdure("version").out == f"perdure {version}\n"
    assert perdure("version", "--json").document == {"version": version}
