"""The catalogue itself says whether the rules of the house hold."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fix_server import Server

Conn = psycopg.Connection[Any]

OURS = "pronamespace = 'perdure'::regnamespace"

# Procedures commit between their statements, and one that has settings or rights of its own may not
# do that: they name everything in full and run with their caller's.
FUNCTIONS = f"{OURS} and prokind = 'f'"


def _names(conn: Conn, query: str) -> list[str]:
    return [row[0] for row in conn.execute(query.encode())]


def test_every_function_pins_its_search_path(conn: Conn) -> None:
    # Two kinds need none: a body in standard SQL, whose names are bound when it is created, and
    # an internal one-expression function, which is inlined into callers that have one.
    assert not _names(
        conn,
        "select p.oid::regprocedure::text from pg_proc p join pg_language l on l.oid = p.prolang"
        f" where {FUNCTIONS}"
        " and not coalesce("
        "   proconfig @> array['search_path=pg_catalog, perdure, pg_temp'], false)"
        " and prosqlbody is null"
        " and (lanname <> 'sql' or prosecdef or proname not like '\\_%')",
    )


def test_api_functions_run_with_the_rights_of_the_owner(conn: Conn) -> None:
    # so does the trigger of watched tables, for whoever writes to them
    assert _names(
        conn,
        f"select distinct proname from pg_proc where {FUNCTIONS}"
        " and prosecdef is distinct from (proname not like '\\_%') order by 1",
    ) == ["_watched", "version"]


def test_everything_has_a_comment(conn: Conn) -> None:
    assert not _names(
        conn,
        f"select oid::regprocedure::text from pg_proc where {OURS}"
        " and obj_description(oid, 'pg_proc') is null",
    )
    assert not _names(
        conn,
        "select oid::regclass::text from pg_class where relnamespace = 'perdure'::regnamespace"
        " and relkind in ('r', 'v', 'p') and obj_description(oid, 'pg_class') is null"
        " and relname <> 'test_clock'",
    )


def test_nothing_is_for_public(conn: Conn) -> None:
    public = "exists (select from aclexplode(coalesce({}, acldefault('{}', {}))) where grantee = 0)"
    functions = public.format("proacl", "f", "proowner")
    relations = public.format("relacl", "r", "relowner")
    schemas = public.format("nspacl", "n", "nspowner")
    assert not _names(
        conn, f"select oid::regprocedure::text from pg_proc where {OURS} and {functions}"
    )
    assert not _names(
        conn,
        "select oid::regclass::text from pg_class"
        f" where relnamespace = 'perdure'::regnamespace and {relations}",
    )
    assert not _names(
        conn, f"select nspname from pg_namespace where nspname = 'perdure' and {schemas}"
    )


def test_a_stranger_can_do_nothing(server: Server, conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("create role perdure_test_stranger")
        conn.execute("set local role perdure_test_stranger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select perdure.version()")


def test_plpgsql_check_finds_nothing(server: Server, conn: Conn) -> None:
    if not server.is_profiled:
        pytest.skip("plpgsql_check is not installed on this server")
    found = conn.execute(
        "select p.oid::regprocedure::text, c.lineno, c.level, c.sqlstate, c.message"
        " from pg_proc p join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql',"
        " lateral plpgsql_check_function_tb(p.oid, fatal_errors => false, extra_warnings => true,"
        "   performance_warnings => false, security_warnings => true) as c"
        # It takes '{}' for an array and the like to be of another type (42804), and wants a
        # composite result to be the only one.
        # A trigger function is checked with a table: tests/watches/test_changes.py.
        f" where {OURS} and p.prorettype <> 'trigger'::regtype and c.sqlstate <> '42804'"
        "   and c.message not like 'composite OUT%'".encode()
    ).fetchall()
    assert not found, "\n".join(map(str, found))
