"""Which database, and what becomes of calls when the connection is lost."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from fix_app import eventually
from perdure import App, _calls, _dsn, _schema, _server, errors


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which no database is named."""
    for name in os.environ:
        if name.startswith("PG") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_the_given_dsn_goes_first(unnamed: pytest.MonkeyPatch) -> None:
    unnamed.setenv("DATABASE_URL", "dbname=b")
    assert _dsn.resolve("dbname=a") == "dbname=a"


def test_then_database_url(unnamed: pytest.MonkeyPatch) -> None:
    unnamed.setenv("DATABASE_URL", "dbname=b")
    unnamed.setenv("PGHOST", "c")
    assert _dsn.resolve(None) == "dbname=b"


def test_then_what_libpq_reads(unnamed: pytest.MonkeyPatch) -> None:
    unnamed.setenv("PGDATABASE", "c")
    assert _dsn.resolve(None) == ""


def test_then_the_embedded_server_in_this_folder(unnamed: pytest.MonkeyPatch) -> None:
    unnamed.setattr(_server, "find_running", lambda folder: f"dbname={folder}")
    assert _dsn.resolve(None) == "dbname=.perdure"
    unnamed.setenv("PERDURE_FOLDER", "elsewhere")
    assert _dsn.resolve(None) == "dbname=elsewhere"


def test_else_an_error_that_says_what_to_do(unnamed: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NoDatabase, match="set DATABASE_URL or PG"):
        App().sync.executions()


def test_a_url_is_completed_without_touching_what_it_says() -> None:
    complete = _dsn.complete(
        "postgresql://u@h/d?connect_timeout=3&application_name=mine", "perdure"
    )
    parts = conninfo_to_dict(complete)
    assert (parts["user"], parts["host"], parts["dbname"]) == ("u", "h", "d")
    assert (parts["connect_timeout"], parts["application_name"]) == ("3", "mine")
    assert parts["keepalives_idle"] == "10"


async def test_an_app_has_no_side_effect_before_its_first_call() -> None:
    app = App("host=/nowhere dbname=nothing")
    app.task(name="x")(lambda: None)
    await app.close()
    with pytest.raises(errors.CannotConnect, match="cannot connect to the database"):
        await app.executions()
    with pytest.raises(errors.CannotConnect):
        app.sync.executions()


async def test_a_database_without_the_schema_says_how_to_get_it(bare_db: str) -> None:
    async with App(bare_db) as app:
        with pytest.raises(errors.ClientNewer, match="perdure migrate") as caught:
            await app.executions()
    assert caught.value.sqlstate == "QD032"


@pytest.mark.parametrize(
    ("version", "kind", "code"),
    [("99.0.0", errors.SchemaNewer, "QD031"), ("0.0.1", errors.ClientNewer, "QD032")],
)
def test_a_schema_of_another_version_is_refused(
    app: App, conn: psycopg.Connection[Any], version: str, kind: type, code: str
) -> None:
    own = _schema.client_version()
    body = (
        "create or replace function perdure.version() returns text"
        " language sql as $$ select '{}' $$"
    )
    conn.execute(body.format(version))
    with pytest.raises(kind, match="upgrade") as caught:
        app.sync.executions()
    assert caught.value.sqlstate == code  # type: ignore[attr-defined]
    conn.execute(body.format(own))
    assert app.sync.executions() == []


def hang_up(conn: psycopg.Connection[Any]) -> int:
    """Ends the client's session, and waits until it has."""
    ended = conn.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'perdure' and datname = current_database()"
    ).fetchall()
    return len(ended)


async def test_a_connection_lost_while_idle_is_opened_again(
    app: App, conn: psycopg.Connection[Any]
) -> None:
    handle = await app.enqueue("x")
    assert hang_up(conn) == 1
    other = await app.enqueue("x")
    assert other.id > handle.id
    assert hang_up(conn) == 1
    assert app.sync.status(handle.id) == "ready"
    assert hang_up(conn) == 1
    assert app.sync.cancel(handle.id) == "cancelled"
    assert len(await app.executions()) == 2


def waits(conn: psycopg.Connection[Any]) -> bool:
    """Whether a call waits for the lock that the test holds."""
    locks = (
        "select 1 from pg_locks where locktype = 'advisory' and not granted and database = ("
        "select oid from pg_database where datname = current_database())"
    )
    return bool(conn.execute(locks).fetchall())


async def test_a_read_is_sent_again_when_the_connection_breaks_beneath_it(
    app: App, conn: psycopg.Connection[Any]
) -> None:
    call = _calls.Call("select pg_advisory_lock_shared(1)::text", [], len, is_read=True)
    conn.execute("select pg_advisory_lock(1)")
    reading = asyncio.create_task(app.run(call))
    await eventually(lambda: waits(conn))
    hang_up(conn)
    await eventually(lambda: waits(conn))
    conn.execute("select pg_advisory_unlock(1)")
    assert await reading == 1


async def test_a_write_is_not_sent_again_when_the_connection_breaks_beneath_it(
    app: App, conn: psycopg.Connection[Any]
) -> None:
    call = _calls.Call("select pg_advisory_lock_shared(1)::text", [], len)
    conn.execute("select pg_advisory_lock(1)")
    writing = asyncio.create_task(app.run(call))
    await eventually(lambda: waits(conn))
    hang_up(conn)
    with pytest.raises(errors.ConnectionLost, match="it may have taken effect, or not"):
        await writing


async def test_a_replaced_function_is_prepared_anew(
    app: App, conn: psycopg.Connection[Any]
) -> None:
    for _ in range(10):
        await app.tree_progress(1)
    conn.execute("drop function perdure.tree_progress(bigint)")
    conn.execute(
        "create function perdure.tree_progress(root bigint)"
        " returns table (status varchar, executions int) language sql as $$ select 'ready', 1 $$"
    )
    assert await app.tree_progress(1) == {"ready": 1}


async def test_errors_of_the_database_pass_through(app: App) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await app.run(_calls.Call("select 1 / 0", [], list))
    assert await app.executions() == []


def test_each_event_loop_has_a_connection_of_its_own(app: App) -> None:
    async def use() -> None:
        await app.executions()
        await app.close()

    asyncio.run(use())
    asyncio.run(use())


def test_threads_share_the_blocking_client(app: App) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda n: app.sync.enqueue("x", n).id, range(40)))
    assert len(ids) == 40


def test_a_forked_process_opens_a_connection_of_its_own(app: App) -> None:
    import multiprocessing

    app.sync.executions()
    child = multiprocessing.get_context("fork").Process(target=app.sync.enqueue, args=("x",))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(app.sync.executions()) == 1
