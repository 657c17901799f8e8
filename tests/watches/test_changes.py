"""What changes of a watched table become: an execution for each row, in their transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_server import Server
from fix_sessions import Sessions
from fix_watches import LONG, changes, told


def forget(engine: Engine) -> None:
    engine.run("truncate perdure.execution, perdure.ready, perdure.scheduled cascade")


def calls(engine: Engine, statement: str) -> int:
    """How often a statement's triggers call enqueue_many."""
    engine.run("set track_functions = 'all'")
    query = "select coalesce(pg_stat_get_xact_function_calls('perdure.enqueue_many'::regproc), 0)"
    with engine.conn.transaction():
        before: int = engine.one(query)
        engine.run(statement)
        after: int = engine.one(query)
    return after - before


@pytest.fixture
def watched(engine: Engine) -> Engine:
    """The table `orders` watched for the task `handle`."""
    engine.value("watch_table", "public.orders", "handle")
    return engine


def test_an_input_has_the_table_the_operation_and_the_row_before_and_after(
    watched: Engine,
) -> None:
    watched.run("insert into orders values (1, 'new', 9.50)")
    watched.run("update orders set status = 'paid'")
    watched.run("delete from orders")
    new = {"id": 1, "status": "new", "amount": 9.5}
    paid = new | {"status": "paid"}
    assert changes(watched) == [
        {"table": "public.orders", "op": "insert", "new": new, "old": None},
        {"table": "public.orders", "op": "update", "new": paid, "old": new},
        {"table": "public.orders", "op": "delete", "new": None, "old": paid},
    ]


# One execution for each changed row, one call for each statement


@pytest.mark.parametrize("rows", [0, 1, 1000])
@pytest.mark.parametrize("operation", ["insert", "update", "delete"])
@pytest.mark.parametrize("condition", [None, "true"])
def test_a_statement_is_one_call_whatever_number_of_rows_it_changes(
    unprofiled: Engine, operation: str, rows: int, condition: str | None
) -> None:
    unprofiled.run("insert into orders select g, 'new', g from generate_series(1, 1000) as g")
    unprofiled.value("watch_table", "orders", "handle", condition=condition)
    statement = {
        "insert": f"insert into orders select g from generate_series(2001, {2000 + rows}) as g",
        "update": f"update orders set status = 'paid' where id <= {rows}",
        "delete": f"delete from orders where id <= {rows}",
    }[operation]
    assert calls(unprofiled, statement) == (1 if rows else 0)
    first = 2001 if operation == "insert" else 1
    ids = range(first, first + rows)
    assert told(unprofiled) == [
        (operation, None if operation == "insert" else i, None if operation == "delete" else i)
        for i in ids
    ]


@pytest.mark.parametrize("condition", [None, "true"])
def test_ten_thousand_changes_go_with_one_call_and_order_is_kept(
    unprofiled: Engine, condition: str | None
) -> None:
    unprofiled.value("watch_table", "orders", "handle", condition=condition)
    assert calls(unprofiled, "insert into orders select g from generate_series(1, 10001) as g") == 2
    assert told(unprofiled) == [("insert", None, i) for i in range(1, 10_002)]
    forget(unprofiled)
    assert calls(unprofiled, "update orders set id = id + 100000") == 2
    assert told(unprofiled) == [("update", i, i + 100_000) for i in range(1, 10_002)]
    forget(unprofiled)
    assert calls(unprofiled, "delete from orders") == 2
    assert told(unprofiled) == [("delete", i + 100_000, None) for i in range(1, 10_002)]


def test_copy_counts_as_one_statement(watched: Engine) -> None:
    with watched.conn.cursor() as cursor:
        with cursor.copy("copy orders (id, status) from stdin") as copy:
            for number in range(1, 101):
                copy.write_row((number, "copied"))
    assert told(watched) == [("insert", None, number) for number in range(1, 101)]


def test_a_statement_notifies_once_at_most(watched: Engine, sessions: Sessions) -> None:
    ears = sessions.open()
    ears.run("listen perdure")
    watched.run("insert into orders select g from generate_series(1, 300) as g")
    heard = list(ears.conn.notifies(timeout=5, stop_after=1))
    heard += list(ears.conn.notifies(timeout=0.05))
    assert [notification.payload for notification in heard] == [
        '{"event": "ready", "queues": ["default"], "items": 300}'
    ]


# Old and new belong together


@pytest.mark.parametrize("condition", [None, "new.id is distinct from old.id"])
def test_an_update_pairs_old_and_new_also_where_the_key_changes(
    unprofiled: Engine, condition: str | None
) -> None:
    unprofiled.value("watch_table", "orders", "handle", operations=["update"], condition=condition)
    unprofiled.run("insert into orders select g, null, g from generate_series(1, 500) as g")
    unprofiled.run("update orders set id = id + 1000 where id % 2 = 0")
    stored = [row["id"] for row in unprofiled.query("select id from orders order by ctid")]
    unprofiled.run("update orders set id = 9001 - id")
    assert told(unprofiled) == [
        *(("update", i, i + 1000) for i in range(2, 501, 2)),
        *(("update", i, 9001 - i) for i in stored),
    ]
    assert all(change["old"]["amount"] == change["new"]["amount"] for change in changes(unprofiled))


PARTITIONED = """
  create table places (id int, region text, amount int) partition by list (region);
  create table places_north partition of places for values in ('north');
  create table places_south (amount int, gone int, region text, id int);
  alter table places_south drop column gone;
  alter table places attach partition places_south for values in ('south');
"""


@pytest.mark.parametrize("condition", [None, "new is distinct from old"])
def test_a_partitioned_table_is_one_table(unprofiled: Engine, condition: str | None) -> None:
    unprofiled.run(PARTITIONED)
    unprofiled.value("watch_table", "places", "handle", condition=condition)
    unprofiled.run(
        "insert into places"
        " select g, case when g % 2 = 0 then 'north' else 'south' end, g"
        " from generate_series(1, 100) as g"
    )
    unprofiled.run("update places set id = id + 1000, region = 'north'")  # half of them move
    unprofiled.run("delete from places where id <= 1010")
    found = changes(unprofiled)
    assert [change["op"] for change in found] == ["insert"] * 100 + ["update"] * 100 + [
        "delete"
    ] * 10
    assert {change["table"] for change in found} == {"public.places"}
    for change in found[100:200]:
        assert change["new"]["id"] == change["old"]["id"] + 1000
        assert change["new"]["amount"] == change["old"]["amount"]
        assert change["new"]["region"] == "north"
    assert sorted(change["old"]["id"] for change in found[100:200]) == list(range(1, 101))


def test_a_row_that_vanishes_between_two_partitions_fails_the_update(engine: Engine) -> None:
    engine.run(PARTITIONED)
    engine.value("watch_table", "places", "handle")
    engine.run("insert into places values (1, 'south', 1), (2, 'south', 2)")
    engine.run(
        """
        create function refuse() returns trigger language plpgsql as $$
        begin return case when new.id = 1 then null else new end; end $$;
        create trigger refuse before insert on places_north
          for each row execute function refuse();
        """
    )
    with pytest.raises(psycopg.Error) as caught:
        engine.run("update places set region = 'north'")
    assert caught.value.sqlstate == "QD040"
    assert len(changes(engine)) == 2


def test_a_write_to_a_partition_itself_is_not_seen(engine: Engine) -> None:
    engine.run(PARTITIONED)
    engine.value("watch_table", "places", "handle")
    engine.run("insert into places_north values (1, 'north', 1)")
    assert changes(engine) == []
    engine.value("watch_table", "places_north", "handle")
    engine.run("update places_north set id = 2")
    assert [(change["table"], change["op"]) for change in changes(engine)] == [
        ("public.places_north", "update")
    ]


def test_rows_of_a_child_are_seen_through_its_parent(engine: Engine) -> None:
    engine.run("create table special (gift text) inherits (orders)")
    engine.value("watch_table", "orders", "handle")
    engine.run("insert into special values (7, 'new', 1, 'bow')")
    assert changes(engine) == []
    engine.run("insert into orders values (1, 'new', 1)")
    engine.run("update orders set status = 'paid'")
    assert sorted(told(engine)) == [("insert", None, 1), ("update", 1, 1), ("update", 7, 7)]
    assert changes(engine)[-1]["new"].keys() == {"id", "status", "amount"}


def test_an_upsert_is_an_insert_and_an_update(watched: Engine) -> None:
    watched.run("insert into orders values (1, 'old', 1), (2, 'old', 2)")
    forget(watched)
    watched.run(
        "insert into orders values (1, 'new', 5), (2, 'new', 6), (3, 'new', 7), (4, 'new', 8)"
        " on conflict (id) do update set status = excluded.status, id = orders.id + 10"
    )
    assert sorted(told(watched)) == [
        ("insert", None, 3),
        ("insert", None, 4),
        ("update", 1, 11),
        ("update", 2, 12),
    ]


def test_a_merge_is_all_that_it_does(watched: Engine) -> None:
    watched.run("insert into orders select g, 'old', g from generate_series(1, 6) as g")
    forget(watched)
    watched.run(
        """
        merge into orders as o
        using (select g as id from generate_series(3, 9) as g) as s on s.id = o.id
        when matched and o.id % 2 = 0 then delete
        when matched then update set id = o.id + 100
        when not matched then insert (id, status) values (s.id, 'new')
        """
    )
    assert sorted(told(watched), key=str) == [
        ("delete", 4, None),
        ("delete", 6, None),
        ("insert", None, 7),
        ("insert", None, 8),
        ("insert", None, 9),
        ("update", 3, 103),
        ("update", 5, 105),
    ]


def test_a_cascade_is_seen_where_it_arrives(watched: Engine) -> None:
    watched.run(
        "create table lines (id int, order_id int references orders on delete cascade"
        " on update cascade)"
    )
    watched.value("watch_table", "lines", "handle_line")
    watched.run("insert into orders values (1), (2)")
    watched.run("insert into lines values (10, 1), (11, 1), (20, 2)")
    watched.run("update orders set id = id + 5")
    watched.run("delete from orders where id = 6")
    found = changes(watched, "handle_line")[3:]
    assert sorted(
        (change["op"], change["old"]["order_id"], (change["new"] or {}).get("order_id"))
        for change in found[:3]
    ) == [("update", 1, 6), ("update", 1, 6), ("update", 2, 7)]
    assert sorted((change["op"], change["old"]["id"]) for change in found[3:]) == [
        ("delete", 10),
        ("delete", 11),
    ]


# Which changes count


def test_columns_let_an_update_count_only_where_one_of_them_differs(engine: Engine) -> None:
    engine.value("watch_table", "orders", "handle", columns=["status", "amount"])
    engine.run("insert into orders values (1, 'new', 1.0), (2, null, null), (3, 'paid', 1)")
    engine.run("update orders set status = 'paid', amount = amount * 1.00")
    engine.run("update orders set id = id + 10")
    engine.run("update orders set amount = null")
    engine.run("delete from orders where id = 11")
    assert told(engine)[3:] == [
        ("update", 1, 1),
        ("update", 2, 2),
        ("update", 11, 11),
        ("update", 13, 13),
        ("delete", 11, None),
    ]


def test_a_column_that_the_table_lost_counts_as_changed(engine: Engine) -> None:
    engine.value("watch_table", "orders", "handle", columns=["status"])
    engine.run("insert into orders values (1, 'new')")
    engine.run("update orders set amount = 1")
    assert len(changes(engine)) == 1
    engine.run("alter table orders rename status to state")
    engine.run("update orders set amount = 2")
    assert len(changes(engine)) == 2, "rather one too many than one too few"
    assert [row["problem"] for row in engine.rows("check_watches")] == [
        None,
        "no such column",
        None,
    ]
    assert [row["result"] for row in engine.rows("repair_watches")] == ["left alone"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("new.status = 'paid'", [("insert", None, 2), ("update", 1, 1), ("update", 2, 2)]),
        (
            "new.status = 'paid' and old.status is distinct from 'paid' -- newly",
            [("insert", None, 2), ("update", 1, 1)],
        ),
        ("old.amount > 1", [("update", 2, 2), ("delete", 2, None)]),
        ("old.status like 'n%' /* %s %1$I */", [("update", 1, 1)]),
        ("old is null", [("insert", None, 1), ("insert", None, 2)]),
        ("new is null", [("delete", 1, None), ("delete", 2, None)]),
        ("new.id in (select o.id from public.orders as o where o.amount > 100)", []),
        ("old.amount > 100 or\nabs(new.id) = 1", [("insert", None, 1), ("update", 1, 1)]),
    ],
)
def test_a_condition_lets_through_what_it_holds_for(
    unprofiled: Engine, condition: str, expected: list[Any]
) -> None:
    unprofiled.value("watch_table", "orders", "handle", condition=condition)
    unprofiled.run("insert into orders values (1, 'new', 1), (2, 'paid', 2)")
    unprofiled.run("update orders set status = 'paid'")
    unprofiled.run("delete from orders")
    assert told(unprofiled) == expected


def test_a_condition_and_columns_have_both_to_hold(unprofiled: Engine) -> None:
    unprofiled.value(
        "watch_table", "orders", "handle", columns=["status"], condition="new.amount > 1"
    )
    unprofiled.run("insert into orders values (1, 'a', 1), (2, 'a', 2)")
    unprofiled.run("update orders set status = 'b'")
    unprofiled.run("update orders set amount = 5")
    assert told(unprofiled) == [("insert", None, 2), ("update", 2, 2)]


def test_a_condition_that_fails_fails_the_statement(unprofiled: Engine) -> None:
    unprofiled.value("watch_table", "orders", "handle", condition="1 / new.amount > 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        unprofiled.run("insert into orders values (1, 'a', 0)")
    assert unprofiled.one("select count(*) from orders") == 0


def test_other_operations_are_not_even_triggered(engine: Engine) -> None:
    engine.value("watch_table", "orders", "handle", operations=["delete", "insert"])
    engine.run("insert into orders values (1, 'a', 0)")
    engine.run("update orders set status = 'b'")
    engine.run("delete from orders")
    assert [op for op, *_ in told(engine)] == ["insert", "delete"]
    assert {row["operation"] for row in engine.rows("check_watches")} == {"insert", "delete"}


def test_an_operation_that_is_taken_back_no_longer_counts(watched: Engine) -> None:
    watched.value("watch_table", "orders", "handle", operations=["delete"])
    watched.run("insert into orders values (1, 'a', 0)")
    watched.run("delete from orders")
    assert told(watched) == [("delete", 1, None)]
    assert [row["problem"] for row in watched.rows("check_watches")] == [None]


def test_truncate_is_not_seen(watched: Engine) -> None:
    watched.run("insert into orders values (1)")
    watched.run("truncate orders")
    assert told(watched) == [("insert", None, 1)]


def test_several_watches_of_a_table_do_not_know_of_each_other(
    watched: Engine, unprofiled: Engine
) -> None:
    watched.value("watch_table", "orders", "audit", queue="slow", condition="new.id > 1")
    watched.run("insert into orders values (1), (2)")
    assert told(watched) == [("insert", None, 1), ("insert", None, 2)]
    assert told(watched, "audit") == [("insert", None, 2)]
    queues = "select task, queue from perdure.execution group by 1, 2 order by 1"
    assert watched.query(queues) == [
        {"task": "audit", "queue": "slow"},
        {"task": "handle", "queue": "default"},
    ]


def test_what_the_task_declares_holds(watched: Engine) -> None:
    watched.value("define_tasks", [{"name": "handle", "queue": "mail", "max_attempts": 7}])
    watched.run("insert into orders values (1)")
    found = "select queue, max_attempts from perdure.execution"
    assert watched.query(found) == [{"queue": "mail", "max_attempts": 7}]


# The writer's transaction


def test_what_is_rolled_back_has_enqueued_nothing(watched: Engine) -> None:
    with watched.conn.transaction(force_rollback=True):
        watched.run("insert into orders values (1)")
        assert told(watched) == [("insert", None, 1)]
    with watched.conn.transaction():
        watched.run("insert into orders values (2)")
        with watched.conn.transaction(force_rollback=True):
            watched.run("insert into orders values (3)")
    assert told(watched) == [("insert", None, 2)]


def test_a_change_that_cannot_be_enqueued_fails_the_statement(watched: Engine) -> None:
    watched.run("update perdure.config set payload_limit = 1024")
    with pytest.raises(psycopg.Error, match=r"public\.orders for the task handle") as caught:
        watched.run("insert into orders values (1, 'small'), (2, repeat('x', 2000))")
    assert caught.value.sqlstate == "QD022"
    assert watched.one("select count(*) from orders") == 0
    assert changes(watched) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_writer_of_any_isolation_level_is_served(watched: Engine, level: str) -> None:
    watched.run(f"begin isolation level {level}")
    watched.run("insert into orders values (1)")
    watched.run("commit")
    assert told(watched) == [("insert", None, 1)]


def test_a_transaction_older_than_the_watch_is_told_to_try_again(
    engine: Engine, sessions: Sessions
) -> None:
    old = sessions.open()
    old.run("begin isolation level repeatable read")
    old.query("select 1 from orders")
    engine.value("watch_table", "orders", "handle")
    with pytest.raises(psycopg.errors.SerializationFailure):
        old.run("insert into orders values (1)")
    old.run("rollback")
    old.run("insert into orders values (1)")
    assert told(engine) == [("insert", None, 1)]


@pytest.fixture
def writer(server: Server, watched: Engine) -> Iterator[str]:
    """A role that may write to the table and do nothing else."""
    role = f"writer_of_{watched.conn.info.dbname}"
    server.admin.execute(f"create role {role}".encode())
    watched.run(f"grant insert, update, delete, select on orders to {role}")
    yield role
    watched.run(f"drop owned by {role}")
    server.admin.execute(f"drop role {role}".encode())


def test_who_writes_to_the_table_needs_no_right_on_the_engine(
    watched: Engine, unprofiled: Engine, writer: str
) -> None:
    watched.value("watch_table", "orders", "paid", condition="new.status = 'paid'")
    watched.run(f"set role {writer}")
    watched.run("insert into orders values (1, 'paid')")
    watched.run("update orders set status = 'sent'")
    for forbidden in (
        "select perdure.enqueue('handle')",
        "select * from perdure.watch",
        "select perdure.watch_table('orders', 'x')",
        "create trigger mine after insert on orders for each statement"
        " execute function perdure._watched('1')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            watched.run(forbidden)
    watched.run("reset role")
    assert told(watched) == [("insert", None, 1), ("update", 1, 1)]
    assert told(watched, "paid") == [("insert", None, 1)]


# Values and names


def test_values_of_every_kind_arrive_and_do_not_vary_with_the_writer(unprofiled: Engine) -> None:
    unprofiled.run(
        """
        create type point3 as (x int, y text);
        create table things (
          id int primary key, twice int generated always as (id * 2) stored, tags text[],
          at timestamptz, span interval, during tstzrange, raw bytea, fine float8, doc jsonb,
          place point3, places point3[]
        )
        """
    )
    unprofiled.value("watch_table", "things", "handle")
    unprofiled.value("watch_table", "things", "checked", condition="new.twice = 2")
    values = (
        "tags = '{a,\"b c\"}', at = '2026-01-01 12:00+02', span = '1 day 02:00',"
        " during = '[2026-01-01 00:00+02,)', raw = '\\x00ff', fine = 0.1::float8 + 0.2::float8,"
        " doc = '{\"a\": [1, null]}', place = row(1, 'é'), places = array[row(2, null)::point3]"
    )
    unprofiled.run("insert into things (id) values (1)")
    unprofiled.run(
        "set timezone = 'Asia/Tokyo'; set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601';"
        " set bytea_output = 'escape'; set extra_float_digits = -10"
    )
    unprofiled.run(f"update things set {values}")
    unprofiled.run("reset all; set plpgsql_check.profiler = off")
    unprofiled.run(f"update things set {values}")
    first, second = changes(unprofiled)[1:]
    assert first["new"] == second["new"]
    assert second["new"] == {
        "id": 1,
        "twice": 2,
        "tags": ["a", "b c"],
        "at": "2026-01-01T10:00:00+00:00",
        "span": "1 day 02:00:00",
        "during": '["2025-12-31 22:00:00+00",)',
        "raw": "\\x00ff",
        "fine": 0.30000000000000004,
        "doc": {"a": [1, None]},
        "place": {"x": 1, "y": "é"},
        "places": [{"x": 2, "y": None}],
    }
    assert changes(unprofiled, "checked") == changes(unprofiled)


@pytest.mark.parametrize("condition", [None, "new.old is distinct from old.old"])
def test_columns_may_be_called_as_they_like(unprofiled: Engine, condition: str | None) -> None:
    unprofiled.run(
        'create table odd (new int, old int, n int, t int, c int, value int, "table" int,'
        ' perdure_new int, perdure_old int, "Two Words" text)'
    )
    unprofiled.value(
        "watch_table", "odd", "handle", condition=condition, columns=["Two Words", "old"]
    )
    unprofiled.run("insert into odd values (1, 2, 3, 4, 5, 6, 7, 8, 9, 'ü')")
    unprofiled.run("update odd set old = 20")
    inserted, updated = changes(unprofiled)
    assert len(inserted["new"]) == 10
    assert inserted["new"]["Two Words"] == "ü"
    assert updated["new"] == inserted["new"] | {"old": 20}
    assert updated["old"] == inserted["new"]


@pytest.mark.parametrize(
    "table",
    [
        'app."Order ""Items"" äöü\'s"',
        f"app.{LONG}",
        f'app."{"ü" * 45}"',
        'app."perdure_watch_1_insert"',
        'app."select"',
        'app."."',
    ],
    ids=["quoted", "long", "long, not ASCII", "like a trigger", "keyword", "dot"],
)
def test_tables_of_any_name_are_watched_with_working_inserts(
    unprofiled: Engine, table: str
) -> None:
    unprofiled.run("create schema app")
    unprofiled.run(f"create table {table} (id int)")
    stored = unprofiled.one(
        "select format('%I.%I', 'app', relname) from pg_class"
        " where relnamespace = 'app'::regnamespace and relkind = 'r'"
    )
    unprofiled.value("watch_table", table, "handle")
    unprofiled.value("watch_table", table, "checked", condition="new.id > 0")
    unprofiled.run(f"insert into {table} values (1)")
    for task in ("handle", "checked"):
        assert changes(unprofiled, task) == [
            {"table": stored, "op": "insert", "new": {"id": 1}, "old": None}
        ]
    assert {row["table_name"] for row in unprofiled.rows("check_watches", table)} == {stored}
    assert unprofiled.value("unwatch_table", table, "handle")
    unprofiled.run(f"insert into {table} values (2)")
    assert (len(changes(unprofiled)), len(changes(unprofiled, "checked"))) == (1, 2)


def test_a_table_may_change_between_two_statements_of_a_session(
    watched: Engine, unprofiled: Engine
) -> None:
    watched.value("watch_table", "orders", "checked", condition="new.id > 0")
    watched.run("insert into orders values (1, 'a', 1)")
    watched.run("alter table orders add column note text default 'n'")
    watched.run("update orders set amount = 2")
    watched.run("alter table orders drop column status")
    watched.run("alter table orders alter column amount type text")
    watched.run("update orders set amount = '3'")
    for task in ("handle", "checked"):
        assert [change["new"] for change in changes(watched, task)] == [
            {"id": 1, "status": "a", "amount": 1},
            {"id": 1, "status": "a", "amount": 2, "note": "n"},
            {"id": 1, "amount": "3", "note": "n"},
        ]


def test_a_renamed_table_goes_on_under_its_name(watched: Engine) -> None:
    watched.run("alter table orders rename to purchases")
    watched.run("insert into purchases values (1)")
    assert changes(watched)[0]["table"] == "public.purchases"


def test_plpgsql_check_finds_nothing(server: Server, watched: Engine) -> None:
    if not server.is_profiled:
        pytest.skip("plpgsql_check is not installed on this server")
    found = watched.query(
        "select lineno, level, message from plpgsql_check_function_tb("
        " 'perdure._watched', relid => 'orders', fatal_errors => false, extra_warnings => true,"
        " performance_warnings => false, security_warnings => true,"
        " newtable => 'perdure_new', oldtable => 'perdure_old')"
    )
    assert found == []
