"""Watched tables in Python and on the command line."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import psycopg
import pytest

from fix_app import eventually
from fix_cli import Run
from fix_engine import Engine
from fix_server import Connect
from fix_sessions import Sessions
from fix_watches import told
from perdure import App
from perdure._client_sync import send
from perdure._watches import Watches
from perdure.errors import (
    InvalidArgument,
    InvalidName,
    PerdureError,
    TableNotFound,
    WatchBusy,
)
from perdure.records import Watch, WatchHealth, WatchRepair
from perdure.testing import working


async def test_a_changed_row_runs_a_body(engine: Engine, app: App) -> None:
    seen: list[Any] = []

    @app.task
    async def handle(change: dict[str, Any], /) -> None:
        seen.append((change["op"], change["new"]["id"]))

    app.watch("public.orders", handle, operations=["insert"])
    async with working(app):
        await eventually(lambda: engine.rows("check_watches"))
        engine.run("insert into orders values (7)")
        await eventually(lambda: seen)
    assert seen == [("insert", 7)]


async def test_a_client_watches_checks_repairs_and_ends(engine: Engine, app: App) -> None:
    @app.task
    async def handle(change: dict[str, Any], /) -> None: ...

    watch = await app.watch_table("orders", handle, columns=["status"], queue="mail")
    assert await app.watch_table("orders", "handle", columns=["status"], queue="mail") == watch
    healthy = [
        WatchHealth(watch, "public.orders", "handle", operation, None)
        for operation in ("insert", "update", "delete")
    ]
    assert await app.check_watches() == healthy
    engine.run("drop trigger perdure_watch_1_update on orders")
    assert (await app.check_watches("orders"))[1].problem == "missing"
    assert await app.repair_watches() == [
        WatchRepair("public.orders", "handle", "update", "missing", "repaired")
    ]
    assert app.sync.check_watches() == healthy
    assert app.sync.repair_watches("orders") == []
    assert await app.unwatch_table("orders", handle)
    assert not app.sync.unwatch_table("orders", "handle")


async def test_a_watch_belongs_to_the_transaction_in_which_it_is_asked_for(
    engine: Engine, app: App, connect: Connect
) -> None:
    with connect(autocommit=False) as conn:
        app.sync.watch_table("orders", "handle", conn=conn)
        conn.rollback()
    assert await app.check_watches() == []


async def test_what_the_engine_refuses_has_its_class(
    engine: Engine, app: App, sessions: Sessions
) -> None:
    with pytest.raises(TableNotFound):
        await app.watch_table("nowhere", "t")
    writer = sessions.open()
    with writer.conn.transaction():
        writer.run("insert into orders values (1)")
        with pytest.raises(WatchBusy):
            app.sync.watch_table("orders", "t")


WRONG: list[tuple[dict[str, Any], type[PerdureError]]] = [
    ({"table": ""}, InvalidName),
    ({"table": 7}, InvalidName),
    ({"table": "a\0"}, InvalidName),
    ({"task": "a\n"}, InvalidName),
    ({"queue": ""}, InvalidName),
    ({"operations": []}, InvalidArgument),
    ({"operations": "insert"}, InvalidArgument),
    ({"operations": ["truncate"]}, InvalidArgument),
    ({"columns": "status"}, InvalidArgument),
    ({"columns": [1]}, InvalidArgument),
    ({"columns": []}, InvalidArgument),
    ({"columns": ["status"], "operations": ["delete"]}, InvalidArgument),
    ({"condition": 7}, InvalidArgument),
]


@pytest.mark.parametrize(("given", "error"), WRONG, ids=[str(given) for given, _ in WRONG])
def test_a_declaration_is_checked_where_it_is_made(
    given: dict[str, Any], error: type[PerdureError]
) -> None:
    app = App("")
    with pytest.raises(error):
        app.watch(**{"table": "orders", "task": "handle"} | given)
    assert app.watches == []


def test_a_declaration_is_kept_in_order_and_made_once() -> None:
    app = App("")
    watch = app.watch("orders", "handle", operations=("delete", "insert"), condition="true")
    assert watch == Watch("orders", "handle", None, "true", ("insert", "delete"), None)
    with pytest.raises(ValueError, match="already"):
        app.watch("orders", "handle")
    app.watch("orders", "other")
    assert [each.task for each in app.watches] == ["handle", "other"]


# What a worker does every few seconds


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.levelname for record in caplog.records]
    caplog.clear()
    return found


def test_what_cannot_be_watched_yet_is_told_once_and_tried_again(
    engine: Engine, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "perdure")
    app = App("")
    watches = Watches([app.watch("orders", "handle"), app.watch("later", "handle")])
    run: Any = partial(send, connect())
    assert watches.install(run) is False
    assert levels(caplog) == ["INFO", "WARNING"]
    assert watches.install(run) is False
    assert levels(caplog) == ["DEBUG"]
    engine.run("create table later (id int)")
    assert watches.install(run) is True
    assert levels(caplog) == ["INFO"]
    watches.tend(run)
    assert watches.are_in_place
    assert levels(caplog) == []
    engine.run("insert into later values (1)")
    assert told(engine) == [("insert", None, 1)]


def test_what_is_mended_is_told_each_time_and_what_is_not_once(
    engine: Engine, connect: Connect, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    engine.value("watch_table", "orders", "handle")
    caplog.set_level(logging.DEBUG, "perdure")
    watches = Watches([])
    run: Any = partial(send, connect())
    writer = sessions.open()
    engine.run("drop trigger perdure_watch_1_update on orders")
    with writer.conn.transaction():
        writer.run("insert into orders values (1)")
        watches.tend(run)
        watches.tend(run)
    assert levels(caplog) == ["INFO", "DEBUG"]
    watches.tend(run)
    watches.tend(run)
    assert "repaired" in caplog.text
    assert levels(caplog) == ["INFO"]
    engine.run("alter table orders rename to former")
    watches.tend(run)
    assert levels(caplog) == ["WARNING"] * 6  # three are missed, three are stray
    watches.tend(run)
    assert levels(caplog) == ["DEBUG"] * 6


def test_a_lost_connection_is_raised_and_another_failure_is_not(
    engine: Engine, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    watches = Watches([App("").watch("orders", "handle")])
    conn = connect()
    run: Any = partial(send, conn)
    engine.run("alter function perdure.repair_watches rename to elsewhere")
    watches.tend(run)
    assert watches.are_in_place
    assert "cannot look after watched tables" in caplog.text
    engine.run("alter function perdure.elsewhere rename to repair_watches")
    engine.lose_worker(conn)
    with pytest.raises(psycopg.OperationalError):
        watches.repair(run)
    with pytest.raises(psycopg.OperationalError):
        Watches([App("").watch("orders", "handle")]).install(run)


# The command line


@pytest.mark.usefixtures("database")
def test_watches_are_listed_with_their_health_and_repaired(engine: Engine, perdure: Run) -> None:
    assert perdure("watches").out == "no table is watched\n"
    engine.value("watch_table", "orders", "handle")
    engine.value("watch_table", "orders", "audit", operations=["delete"])
    shown = perdure("watches")
    assert shown.code == 0
    assert [line.split(maxsplit=2) for line in shown.out.splitlines()] == [
        ["TABLE", "TASK", "OPERATIONS              HEALTH"],
        ["public.orders", "audit", "delete                  ok"],
        ["public.orders", "handle", "insert, update, delete  ok"],
    ]
    engine.run(
        "drop trigger perdure_watch_1_insert on orders;"
        "alter table orders disable trigger perdure_watch_1_delete"
    )
    broken = perdure("watches", "public.orders")
    assert broken.code == 1
    assert "insert: missing, delete: disabled" in broken.out
    document = perdure("watches", "--json").document
    assert document["repairs"] == []
    assert document["watches"][1] == {
        "watch": 1,
        "table": "public.orders",
        "task": "handle",
        "operation": "insert",
        "problem": "missing",
    }
    mended = perdure("watches", "--repair")
    assert mended.code == 0
    assert mended.out.splitlines()[-2:] == [
        "public.orders: insert was missing: repaired",
        "public.orders: delete was disabled: repaired",
    ]
    assert perdure("watches", "elsewhere").out == "this table is not watched\n"
    assert perdure("watches", "no name").code == 2


@pytest.mark.usefixtures("database")
def test_a_repair_by_hand_is_done_also_where_residents_do_none(
    engine: Engine, perdure: Run, sessions: Sessions
) -> None:
    engine.run("update perdure.config set repair_watches = false")
    engine.value("watch_table", "orders", "handle")
    engine.run("alter table orders disable trigger user")
    writer = sessions.open()
    with writer.conn.transaction():
        writer.run("insert into orders values (1)")
        busy = perdure("watches", "--repair", "--json")
        assert busy.code == 1
        assert {made["result"] for made in busy.document["repairs"]} == {"busy"}
    assert perdure("watches", "--repair", "--json").code == 0
