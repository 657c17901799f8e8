"""`perdure migrate`, `perdure sql`, `perdure version`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from perdure import _schema
from perdure.cli import _output as out
from perdure.cli._target import Target, connect, json_option, with_target
from perdure.errors import PerdureError, SchemaNewer

if TYPE_CHECKING:
    import psycopg


@click.command(short_help="Bring the database to this version's schema.")
@with_target
def migrate(target: Target) -> None:
    """Bring the database to this version's schema, in one transaction.

    Installs it where there is none; otherwise runs the missing migrations, then writes every
    function, view and privilege anew. What is stored stays.
    """
    with target.connect() as conn:
        done = _schema.migrate(conn)
        place = where(conn)
    if target.as_json:
        out.print_json(done)
    elif done.before is None:
        out.show(f"installed schema {done.after} in {place}")
    else:
        steps = f"{done.before} to {done.after}" if done.before != done.after else done.after
        ran = f"ran {', '.join(done.migrations)}" if done.migrations else "no migration was missing"
        out.show(f"schema {steps} in {place}: {ran}")


@click.command()
@with_target
def sql(target: Target) -> None:
    """Print the SQL that `migrate` would run.

    Without a database that is the whole install: `perdure sql | psql -1`. On an existing schema
    `migrate` also drops functions and views that no longer belong.
    """
    before, text = None, _schema.install_sql()
    if (dsn := target.find_dsn()) is not None:
        with connect(dsn) as conn:
            before, text = _plan(conn)
    if target.as_json:
        out.print_json({"before": before, "after": _schema.client_version(), "sql": text})
    else:
        sys.stdout.write(text)


@click.command(short_help="Print the version.")
@json_option
def version(as_json: bool) -> None:
    """Print the version of this client, which is that of the schema it brings."""
    if as_json:
        out.print_json({"version": _schema.client_version()})
    else:
        click.echo(f"perdure {_schema.client_version()}")


def where(conn: psycopg.Connection[Any]) -> str:
    """A database in words: its name and its server."""
    info = conn.info
    server = info.host if info.host.startswith("/") else f"{info.host}:{info.port}"
    return f"database {info.dbname} on {server}"


def _plan(conn: psycopg.Connection[Any]) -> tuple[str | None, str]:
    before = installed(conn)
    if before is None:
        return None, _schema.install_sql()
    try:
        _schema.judge_version(before)
    except SchemaNewer:
        raise
    except PerdureError:
        pass  # older: that is what migrate is for
    done = {name for (name,) in conn.execute("select name from perdure.migration")}
    text = "".join(
        f"{text}insert into perdure.migration (name) values ('{name}');\n"
        for name, text in _schema.migrations().items()
        if name not in done
    )
    return before, text + _schema.reapply_sql()


def installed(conn: psycopg.Connection[Any]) -> str | None:
    """The version of the schema in the database, None where there is none."""
    row = conn.execute("select to_regprocedure('perdure.version()') is not null").fetchone()
    if row is None or not row[0]:
        return None
    return str(conn.execute(_schema.VERSION_QUERY.encode()).fetchall()[0][0])
