"""The triggers of watched tables: made, checked and mended without standing in anybody's way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_engine import Engine, Row
from fix_server import Connect, Server
from fix_sessions import Session, Sessions, done
from fix_watches import LONG, told
from perdure import App, _schema
from perdure.records import Watch

AT_ONCE = 1.0  # seconds within which nobody can have waited for anything
REPAIRED = 6.0  # by a resident, at the latest


def health(engine: Engine, table: str | None = None) -> dict[tuple[str, str], str | None]:
    """Task and operation → problem."""
    rows = engine.rows("check_watches", table)
    return {(row["task"], row["operation"]): row["problem"] for row in rows}


def is_healthy(engine: Engine) -> bool:
    found = health(engine)
    return bool(found) and not any(found.values())


def await_health(engine: Engine) -> None:
    end = time.monotonic() + REPAIRED
    while not is_healthy(engine):
        assert time.monotonic() < end, health(engine)
        time.sleep(0.1)


def repaired(engine: Engine, table: str | None = None) -> list[tuple[str, str, str]]:
    rows = engine.rows("repair_watches", table)
    return [(row["operation"], row["problem"], row["result"]) for row in rows]


def trigger_rows(engine: Engine) -> list[Row]:
    return engine.query("select oid, xmin::text, ctid::text from pg_trigger order by oid")


def drop_triggers(engine: Engine, table: str = "orders") -> None:
    for row in engine.query(
        "select tgname as name from pg_trigger where tgrelid = %s::regclass", table
    ):
        engine.run(f"drop trigger {row['name']} on {table}")


def refused(call: Callable[[], Any]) -> str:
    """The code that the call is refused with, at once."""
    began = time.monotonic()
    with pytest.raises(psycopg.Error) as caught:
        call()
    assert time.monotonic() - began < AT_ONCE
    return caught.value.sqlstate or ""


def at_once(call: Callable[[], Any]) -> Any:
    began = time.monotonic()
    answer = call()
    assert time.monotonic() - began < AT_ONCE
    return answer


@pytest.fixture
def watched(engine: Engine) -> Engine:
    engine.value("watch_table", "public.orders", "handle")
    return engine


# Asking for a watch


def test_asked_for_again_nothing_is_written(watched: Engine) -> None:
    before = trigger_rows(watched), watched.query("select xmin::text, * from perdure.watch")
    with watched.conn.transaction():
        first = watched.value("watch_table", 'Public."orders"', "handle")
        again = watched.value(
            "watch_table", "orders", "handle", operations=["delete", "update", "insert", "insert"]
        )
        assert watched.rows("repair_watches") == []
        assert watched.one("select pg_current_xact_id_if_assigned()") is None
        held = (
            "select mode from pg_locks where pid = pg_backend_pid() and"
            " (relation = 'orders'::regclass or locktype = 'advisory')"
        )
        assert watched.query(held) in ([], [{"mode": "AccessShareLock"}])
    assert first == again == before[1][0]["id"]
    assert (trigger_rows(watched), watched.query("select xmin::text, * from perdure.watch")) == (
        before
    )


def test_other_arguments_replace_the_former_without_touching_the_table(
    watched: Engine, sessions: Sessions
) -> None:
    before = trigger_rows(watched)
    writer = sessions.open()
    with writer.conn.transaction():
        writer.run("insert into orders values (1)")
        arguments = {"columns": ["status"], "condition": "new.amount > 1", "queue": "mail"}
        at_once(lambda: watched.value("watch_table", "orders", "handle", **arguments))
    assert trigger_rows(watched) == before
    (row,) = watched.query("select columns, condition, queue from perdure.watch")
    assert row == arguments


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("an empty name of a table", {"relation": ""}, "QD020"),
    ("a name with too many parts", {"relation": "a.b.c"}, "QD020"),
    ("a name that is none", {"relation": "public.or ders"}, "QD020"),
    ("no table", {"relation": None}, "QD020"),
    ("a table that is not there", {"relation": "nowhere"}, "QD017"),
    ("a table of a schema that is not there", {"relation": "app.orders"}, "QD017"),
    ("a view", {"relation": "seen"}, "QD017"),
    ("a table of the engine", {"relation": "perdure.ready"}, "QD026"),
    ("a table of the system", {"relation": "pg_catalog.pg_class"}, "QD026"),
    ("no task", {"task": None}, "QD020"),
    ("a bad task", {"task": "a\x01"}, "QD020"),
    ("a bad queue", {"queue": ""}, "QD020"),
    ("no operation", {"operations": []}, "QD026"),
    ("operations that are null", {"operations": None}, "QD026"),
    ("an unknown operation", {"operations": ["insert", "truncate"]}, "QD026"),
    ("an operation that is null", {"operations": ["insert", None]}, "QD026"),
    ("an unknown column", {"columns": ["status", "colour"]}, "QD026"),
    ("a system column", {"columns": ["ctid"]}, "QD026"),
    ("a column that is null", {"columns": [None]}, "QD026"),
    ("no column", {"columns": []}, "QD026"),
    ("columns without update", {"columns": ["status"], "operations": ["insert"]}, "QD026"),
    ("a condition that is no SQL", {"condition": "new.status ="}, "QD026"),
    ("an empty condition", {"condition": ""}, "QD026"),
    ("a condition over an unknown column", {"condition": "new.colour = 1"}, "QD026"),
    ("a condition that is no boolean", {"condition": "new.status"}, "QD026"),
    ("a condition over groups", {"condition": "count(*) > 1"}, "QD026"),
    ("two statements", {"condition": "true); drop table orders; select (true"}, "QD026"),
]


@pytest.mark.parametrize(("what", "given", "code"), BAD, ids=[what for what, _, _ in BAD])
def test_what_cannot_be_watched_is_refused_and_nothing_is_left(
    engine: Engine, what: str, given: Row, code: str
) -> None:
    engine.run("create view seen as select * from orders")
    arguments = {"relation": "orders", "task": "handle"} | given
    with pytest.raises(psycopg.Error) as caught:
        engine.rows("watch_table", **arguments)
    assert caught.value.sqlstate == code
    assert caught.value.diag.message_primary
    assert engine.query("select 1 from perdure.watch") == []
    assert engine.query("select 1 from pg_trigger where tgrelid = 'orders'::regclass") == []


def test_a_condition_is_planned_and_not_run(engine: Engine) -> None:
    engine.run(
        "create function public.run() returns boolean language plpgsql volatile"
        " as 'begin raise exception ''it ran''; end'"
    )
    engine.value("watch_table", "orders", "handle", condition="public.run()")
    with pytest.raises(psycopg.Error, match="it ran"):
        Engine(engine.conn).run("set plpgsql_check.profiler = off; insert into orders values (1)")


def test_a_temporary_table_is_not_found(engine: Engine) -> None:
    engine.run("create temporary table gone_soon (id int)")
    schema = engine.one("select pg_my_temp_schema()::regnamespace::text")
    assert refused(lambda: engine.value("watch_table", f"{schema}.gone_soon", "t")) == "QD017"


def test_the_end_of_a_watch_takes_its_triggers_along(watched: Engine) -> None:
    watched.value("watch_table", "orders", "audit")
    watched.run("alter table orders rename to purchases")
    assert watched.value("unwatch_table", "orders", "handle") is True
    assert watched.value("unwatch_table", "orders", "handle") is False
    watched.run("insert into purchases values (1)")
    assert (told(watched), told(watched, "audit")) == ([], [("insert", None, 1)])
    left = "select tgname as name from pg_trigger where tgrelid = 'purchases'::regclass"
    assert {row["name"].split("_")[2] for row in watched.query(left)} == {"2"}
    assert watched.value("unwatch_table", "orders", "audit") is True
    assert watched.rows("check_watches") == []


def test_a_watch_of_a_dropped_table_can_be_ended(watched: Engine) -> None:
    watched.run("drop table orders")
    assert set(health(watched).values()) == {"no such table"}
    assert {result for *_, result in repaired(watched)} == {"left alone"}
    assert watched.value("unwatch_table", "orders", "handle") is True


def test_a_watch_in_use_is_not_ended(watched: Engine, sessions: Sessions) -> None:
    reader = sessions.open()
    with reader.conn.transaction():
        reader.query("select 1 from orders")
        assert refused(lambda: watched.value("unwatch_table", "orders", "handle")) == "QD018"
    assert is_healthy(watched)
    assert watched.value("unwatch_table", "orders", "handle")


# Health

BREAKS = {
    "dropped": ("drop trigger perdure_watch_1_insert on orders", "missing"),
    "disabled": ("alter table orders disable trigger perdure_watch_1_insert", "disabled"),
    "all disabled by hand": ("alter table orders disable trigger user", "disabled"),
    "for replicas only": (
        "alter table orders enable replica trigger perdure_watch_1_insert",
        "disabled",
    ),
    "another function": (
        "create function mine() returns trigger language plpgsql as 'begin return null; end';"
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as perdure_new for each statement execute function mine('1')",
        "wrong function",
    ),
    "the same function elsewhere": (
        "create function public._watched() returns trigger language plpgsql"
        " as 'begin return null; end';"
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as perdure_new for each statement"
        " execute function public._watched('1')",
        "wrong function",
    ),
    "another watch": (
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as perdure_new for each statement"
        " execute function perdure._watched('2')",
        "wrong definition",
    ),
    "no watch": (
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as perdure_new for each statement"
        " execute function perdure._watched()",
        "wrong definition",
    ),
    "another name of the new rows": (
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as other for each statement"
        " execute function perdure._watched('1')",
        "wrong definition",
    ),
    "before": (
        "create or replace trigger perdure_watch_1_insert before insert on orders"
        " for each statement execute function perdure._watched('1')",
        "wrong definition",
    ),
    "each row": (
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " for each row execute function perdure._watched('1')",
        "wrong definition",
    ),
    "another operation": (
        "create or replace trigger perdure_watch_1_insert after delete on orders"
        " for each statement execute function perdure._watched('1')",
        "wrong definition",
    ),
    "only when": (
        "create or replace trigger perdure_watch_1_insert after insert on orders"
        " referencing new table as perdure_new for each statement when (false)"
        " execute function perdure._watched('1')",
        "wrong definition",
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_whatever_is_wrong_is_seen_and_mended(watched: Engine, how: str) -> None:
    statements, problem = BREAKS[how]
    watched.run(statements)
    assert health(watched)["handle", "insert"] == problem
    found = repaired(watched)
    assert ("insert", problem, "repaired") in found
    assert len(found) == (3 if how == "all disabled by hand" else 1)
    assert is_healthy(watched)
    watched.run("insert into orders values (1)")
    assert told(watched) == [("insert", None, 1)]


def test_an_update_of_some_columns_only_is_a_wrong_definition(watched: Engine) -> None:
    watched.run(
        "create or replace trigger perdure_watch_1_update after update of status on orders"
        " for each statement execute function perdure._watched('1')"
    )
    assert repaired(watched) == [("update", "wrong definition", "repaired")]


def test_a_trigger_that_always_fires_is_healthy(watched: Engine) -> None:
    watched.run("alter table orders enable always trigger perdure_watch_1_insert")
    assert is_healthy(watched)


def test_what_belongs_to_no_watch_is_shown_and_left_alone(watched: Engine) -> None:
    watched.run(
        """
        alter table orders rename to former;
        create table orders (id int);
        create trigger perdure_watch_77_insert after insert on orders
          referencing new table as perdure_new
          for each statement execute function perdure._watched('77');
        """
    )
    rows = [
        (row["table_name"], row["watch"], row["operation"], row["problem"])
        for row in watched.rows("check_watches")
    ]
    assert rows == [
        ("public.former", 1, "delete", "stray"),
        ("public.former", 1, "insert", "stray"),
        ("public.former", 1, "update", "stray"),
        ("public.orders", 1, "insert", "missing"),
        ("public.orders", 1, "update", "missing"),
        ("public.orders", 1, "delete", "missing"),
        ("public.orders", None, "insert", "stray"),
    ]
    assert {row["table_name"] for row in watched.rows("check_watches", "former")} == {
        "public.former"
    }
    results = {row["problem"]: row["result"] for row in watched.rows("repair_watches")}
    assert results == {"missing": "repaired", "stray": "left alone"}
    watched.run("insert into orders values (5)")
    assert told(watched) == [("insert", None, 5)], "the one of no watch does nothing"


def test_only_the_tables_that_are_asked_about_are_looked_at(watched: Engine) -> None:
    watched.run("create table other (id int)")
    watched.value("watch_table", "other", "handle")
    for table in ("orders", "other"):
        drop_triggers(watched, table)
    assert len(repaired(watched, "other")) == 3
    assert set(health(watched, "other").values()) == {None}
    assert set(health(watched, "orders").values()) == {"missing"}
    assert watched.rows("check_watches", "unheard.of") == []
    assert watched.rows("repair_watches", "unheard.of") == []
    for function in ("check_watches", "repair_watches"):
        with pytest.raises(psycopg.Error) as caught:
            watched.rows(function, "no name")
        assert caught.value.sqlstate == "QD020"


# Mending, and who else is there (C6)


def test_missing_triggers_are_made_again_by_a_resident(
    watched: Engine, resident: Callable[..., None]
) -> None:
    drop_triggers(watched)
    assert not is_healthy(watched)
    resident()
    await_health(watched)


def test_with_repair_off_nothing_is_made_unless_asked_for_by_name(
    watched: Engine, resident: Callable[..., None]
) -> None:
    watched.run("update perdure.config set repair_watches = false")
    drop_triggers(watched)
    resident()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert not is_healthy(watched)
        time.sleep(0.1)
    assert len(repaired(watched, "orders")) == 3
    assert is_healthy(watched)


def test_repair_goes_on_after_failures(watched: Engine, resident: Callable[..., None]) -> None:
    resident()
    watched.run("drop table orders")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert set(health(watched).values()) == {"no such table"}
        time.sleep(0.1)
    watched.run("create table orders (id int, status text)")
    await_health(watched)
    watched.run("insert into orders values (1)")
    assert told(watched) == [("insert", None, 1)]


def test_triggers_of_a_long_name_are_made_again(engine: Engine) -> None:
    engine.run(f"create table {LONG} (id int)")
    engine.value("watch_table", LONG, "handle")
    drop_triggers(engine, LONG)
    assert {result for *_, result in repaired(engine)} == {"repaired"}
    engine.run(f"insert into {LONG} values (1)")
    assert told(engine) == [("insert", None, 1)]


def test_a_table_that_is_made_later_is_watched_then(
    engine: Engine, resident: Callable[..., None]
) -> None:
    watch: Watch = App("").watch("later", "handle")
    resident(watch)
    engine.run("select pg_sleep(0.3)")
    assert engine.rows("check_watches") == []
    engine.run("create table later (id int)")
    await_health(engine)
    engine.run("insert into later values (1)")
    assert told(engine) == [("insert", None, 1)]


def test_only_what_is_missing_is_made_while_somebody_dumps_the_table(
    watched: Engine, sessions: Sessions
) -> None:
    before = trigger_rows(watched)
    watched.run("drop trigger perdure_watch_1_update on orders")
    dump = sessions.open()
    with dump.conn.transaction():
        dump.run("set transaction isolation level repeatable read")
        dump.run("lock table orders in access share mode")
        assert at_once(lambda: repaired(watched)) == [("update", "missing", "repaired")]
        assert dump.query("select * from orders") == []
    after = trigger_rows(watched)
    assert len(after) == len(before)
    assert len([row for row in after if row in before]) == len(before) - 1


def test_a_writer_is_not_waited_for_and_does_not_wait(watched: Engine, sessions: Sessions) -> None:
    drop_triggers(watched)
    writer, other = sessions.open(), sessions.open()
    with writer.conn.transaction():
        writer.run("insert into orders values (1)")
        assert {result for *_, result in at_once(lambda: repaired(watched))} == {"busy"}
        busy = refused(lambda: watched.value("watch_table", "orders", "handle"))
        assert busy == "QD018"
        at_once(lambda: other.run("insert into orders values (2)"))
    assert {result for *_, result in repaired(watched)} == {"repaired"}
    other.run("insert into orders values (3)")
    assert told(watched) == [("insert", None, 3)]


def test_a_writer_waits_for_a_repair_no_longer_than_its_transaction(
    watched: Engine, sessions: Sessions
) -> None:
    drop_triggers(watched)
    writer: Session = sessions.open()
    with watched.conn.transaction():
        repaired(watched)
        insert = writer.later(writer.run, "insert into orders values (1)")
        sessions.await_waiting(writer, insert)
    done(insert)
    assert told(watched) == [("insert", None, 1)], "it fires the triggers that it waited for"


@pytest.mark.parametrize("function", ["watch_table", "repair_watches"])
def test_another_installer_is_not_waited_for(
    watched: Engine, sessions: Sessions, function: str
) -> None:
    drop_triggers(watched)
    other = sessions.open()
    with other.conn.transaction():
        other.query(
            "select pg_advisory_xact_lock("
            " (select lock_namespace::bigint << 32 from perdure.config)"
            " | 'orders'::regclass::oid::bigint)"
        )
        if function == "watch_table":
            assert refused(lambda: watched.value(function, "orders", "handle")) == "QD018"
        else:
            assert {result for *_, result in at_once(lambda: repaired(watched))} == {"busy"}
    assert not is_healthy(watched)
    assert {result for *_, result in repaired(watched)} == {"repaired"}


def test_of_concurrent_installers_one_does_the_work(engine: Engine, sessions: Sessions) -> None:
    first, *others = [sessions.open() for _ in range(4)]
    with first.conn.transaction():
        id_ = first.value("watch_table", "orders", "handle")
        for other in others:
            assert refused(partial(other.value, "watch_table", "orders", "handle")) == "QD018"
    assert {other.value("watch_table", "orders", "handle") for other in others} == {id_}
    calls = [s.later(install, s, n) for s in (first, *others) for n in range(8)]
    assert sum(done(call) for call in calls) >= 8
    watches = "select count(*) from perdure.watch"
    assert engine.one(watches) == 9
    assert is_healthy(engine)


def install(session: Session, number: int) -> bool:
    """False where another one was at it."""
    for _ in range(1000):
        try:
            session.value("watch_table", "orders", f"task {number}")
        except psycopg.Error as error:
            if error.sqlstate != "QD018":
                raise
        else:
            return True
    return False


def test_each_table_is_judged_alone(watched: Engine, sessions: Sessions) -> None:
    for table in ("busy", "odd"):
        watched.run(f"create table {table} (id int)")
        watched.value("watch_table", table, "handle")
    for table in ("orders", "busy"):
        drop_triggers(watched, table)
    # what cannot be replaced: a constraint's trigger of that name
    watched.run(
        "drop trigger perdure_watch_3_delete on odd;"
        "create function mine() returns trigger language plpgsql as 'begin return null; end';"
        "create constraint trigger perdure_watch_3_delete after delete on odd"
        " for each row execute function mine()"
    )
    writer = sessions.open()
    with writer.conn.transaction():
        writer.run("insert into busy values (1)")
        rows = at_once(lambda: watched.rows("repair_watches"))
    found = {row["table_name"]: row["result"] for row in rows}
    assert found.pop("public.odd").startswith("failed: ")
    assert found == {"public.orders": "repaired", "public.busy": "busy"}


def test_where_all_is_well_a_repair_takes_no_lock(watched: Engine, sessions: Sessions) -> None:
    writer = sessions.open()
    with writer.conn.transaction():
        writer.run("lock table orders in access exclusive mode")
        assert at_once(lambda: watched.rows("repair_watches")) == []
        assert at_once(lambda: is_healthy(watched))


# Rights


@pytest.fixture
def owner(server: Server, engine: Engine) -> Iterator[str]:
    """The engine is its, who is no superuser; the table is not."""
    role = f"owner_of_{engine.conn.info.dbname}"
    server.admin.execute(f"create role {role}".encode())
    for kind in ("table", "function", "view"):
        for row in engine.query(
            {
                "table": "select oid::regclass::text as name from pg_class"
                " where relnamespace = 'perdure'::regnamespace and relkind = 'r'",
                "view": "select oid::regclass::text as name from pg_class"
                " where relnamespace = 'perdure'::regnamespace and relkind = 'v'",
                "function": "select oid::regprocedure::text as name from pg_proc"
                " where pronamespace = 'perdure'::regnamespace and prokind = 'f'",
            }[kind]
        ):
            engine.run(f"alter {kind} {row['name']} owner to {role}")
    engine.run(f"alter schema perdure owner to {role}")
    yield role
    engine.run("reset role")
    engine.run(f"reassign owned by {role} to current_user; drop owned by {role}")
    server.admin.execute(f"drop role {role}".encode())


def test_the_engine_s_owner_needs_the_right_to_make_triggers_and_no_more(
    engine: Engine, owner: str
) -> None:
    denied = refused(lambda: engine.value("watch_table", "orders", "handle"))
    assert denied == "42501"
    engine.run(f"grant trigger on orders to {owner}")
    assert refused(lambda: engine.value("watch_table", "orders", "handle")) == "42501"
    engine.run(f"grant update on orders to {owner}")  # to lock it
    engine.value("watch_table", "orders", "handle")
    engine.run("insert into orders values (1)")
    assert told(engine) == [("insert", None, 1)]
    engine.run("alter table orders disable trigger user")
    assert {result for *_, result in repaired(engine)} == {"repaired"}
    engine.run(f"revoke trigger on orders from {owner}")
    drop_triggers(engine)
    results = {result for *_, result in repaired(engine)}
    assert results == {"failed: permission denied for table orders"}


# Upgrades, and the end


def test_without_the_engine_the_table_is_as_it_was(watched: Engine) -> None:
    with watched.conn.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            with watched.conn.transaction():
                watched.run("drop schema perdure")
        watched.run("set local client_min_messages = warning; drop schema perdure cascade")
        watched.run("insert into orders values (1)")
        assert watched.query("select 1 from pg_trigger where tgrelid = 'orders'::regclass") == []


def test_an_upgrade_keeps_the_triggers(
    watched: Engine, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.run("insert into orders values (1)")
    before = trigger_rows(watched)
    _schema.migrate(connect())
    assert trigger_rows(watched) == before
    watched.run("insert into orders values (2)")
    watched.run("update orders set id = id + 10")
    files = {
        name: text.replace("lower(tg_op), v_new", "'later', v_new")
        for name, text in _schema._files().items()
    }
    monkeypatch.setattr(_schema, "_files", lambda: files)
    _schema.migrate(connect())
    assert trigger_rows(watched) == before
    watched.run("insert into orders values (3)")
    assert told(watched) == [
        ("insert", None, 1),
        ("insert", None, 2),
        ("update", 1, 11),
        ("update", 2, 12),
        ("later", None, 3),
    ]
    assert is_healthy(watched)
