"""A database of the release before, at work, becomes one of this release."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from fix_server import Connect, Server
from perdure import _schema
from perdure.cli import _schema as commands

Conn = psycopg.Connection[Any]
Describe = Callable[[str], dict[tuple[str, str], str]]
Dump = dict[str, list[tuple[Any, ...]]]

HERE = Path(__file__).parent
CLOCK = HERE.parent / "sql" / "clock.sql"

ENQUEUE = (
    "select item, id, is_new, code, message from perdure.enqueue_many(%s::jsonb) order by item"
)
REGISTER = "select perdure.register_worker(%s::text, %s::text[], %s::text[], %s::jsonb)"
EXCHANGE = (
    "select results::text, claimed::text, gone, more, wait_ms, next_after::text"
    " from perdure.exchange(%s::uuid, %s::jsonb, %s::int, null, null, %s::bigint[], %s::bigint,"
    " %s::jsonb)"
)
RESUME = "select id, token from perdure.resume_worker(%s::uuid, %s::bigint[], %s::bigint)"
SWEEP = (
    "select promoted, recovered, timed_out, closed, moved, forgotten, more"
    " from perdure.sweep(%s::text, %s::int)"
)
STATUSES = "select task, status from perdure.executions order by id"

TABLES_OF_0_1_0 = """
select c.relname, array_agg(a.attname order by a.attnum)
from pg_class as c
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = 'perdure'::regnamespace and c.relkind = 'r'
group by c.relname
"""


@pytest.fixture
def old(server: Server, released: str) -> Iterator[str]:
    """A database of 0.1.0; afterwards this release's `fsck` must find nothing."""
    with server.database(released) as dsn:
        yield dsn
        with psycopg.connect(dsn) as conn:
            if conn.execute("select perdure.version()").fetchone() == (_schema.client_version(),):
                assert conn.execute("select * from perdure.fsck()").fetchall() == []


class OldWorker:
    """A worker of 0.1.0: one session, whose lock is its life, and one prepared statement."""

    def __init__(self, conn: Conn, name: str, queues: list[str], tasks: list[str]) -> None:
        self.conn = conn
        (self.incarnation,) = _one(conn, REGISTER, name, queues, tasks, "{}")
        self.held: dict[str, tuple[int, int]] = {}
        self._calls = itertools.count(1)

    def exchange(self, outcomes: list[dict[str, Any]], want: int) -> list[Any]:
        """What was claimed, by task; what was reported has to be recorded."""
        row = self.conn.execute(
            EXCHANGE,
            [
                self.incarnation,
                json.dumps(outcomes) if outcomes else None,
                str(want),
                [id_ for id_, _ in self.held.values()],
                str(next(self._calls)),
                None,
            ],
            prepare=True,
        ).fetchone()
        assert row
        results, claimed, gone, *_ = row
        assert not results
        assert not gone
        leases = json.loads(claimed or "[]")
        for id_, token, task, *_ in leases:
            self.held[task] = (id_, token)
        return [lease[2] for lease in leases]

    def claim(self, task: str) -> None:
        """Claim an execution of this task, which has to be the first in the line."""
        assert self.exchange([], 1) == [task]

    def report(self, task: str, outcome: str, **fields: Any) -> None:
        id_, token = self.held.pop(task)
        self.exchange([{"id": id_, "token": token, "outcome": outcome, **fields}], 0)


@pytest.fixture
def at_work(old: str, connect: Connect) -> OldWorker:
    """Live executions in every room, made by 0.1.0, and a worker of it that has two of them."""
    conn = connect(old)
    conn.execute(
        "select perdure.define_tasks(%s)",
        [Jsonb([{"name": "retried", "max_attempts": 3, "retry_delay": 3600}])],
    )
    tasks = ["completed", "failed", "timed_out", "cancelled", "retried"]
    tasks += ["spawner", "finalized", "finalize", "sequence", "doomed", "hour", "minute", "child"]
    tasks += ["first", "second", "plain"]
    worker = OldWorker(connect(old), "old", ["default", "mail"], tasks)
    error = {"type": "ValueError", "message": "boom"}

    def start(task: str, **options: Any) -> int:
        ((_, id_, *_),) = conn.execute(ENQUEUE, [Jsonb([{"task": task, **options}])])
        worker.claim(task)
        return int(id_)

    for status in ("completed", "failed", "timed_out", "cancelled"):
        start(status, input={"of": status}, key=status, key_for="ever")
        worker.report(status, status, **({} if status == "completed" else {"error": error}))
    start("retried")
    worker.report("retried", "failed", error=error)

    start("spawner")
    children = [{"task": "child", "queue": "mail"}, {"task": "child", "queue": "away"}]
    worker.report("spawner", "spawned", children=children, output=1)
    worker.claim("child")
    worker.report("child", "completed", output=2)
    start("finalized")
    worker.report("finalized", "spawned", children=[], finalize={"task": "finalize"}, output=3)
    worker.claim("finalize")  # and keeps it
    start("sequence")
    steps = [{"task": "first", "queue": "away"}, {"task": "second"}]
    worker.report("sequence", "spawned", children=steps, sequential=True)

    start("hour", deadline=86400, headers={"a": 1}, tags=["b"])  # and keeps it
    items: list[dict[str, Any]] = [
        {"task": "plain", "priority": 7, "input": [1, 2]},
        {"task": "minute", "delay": 60},
        {"task": "sleeper", "sleeping": True, "key": "s", "timeout": 86400},
        {"task": "unknown"},
    ]
    assert len(conn.execute(ENQUEUE, [Jsonb(items)]).fetchall()) == 4
    conn.execute(SWEEP, ["default", 1000])  # sets aside what nobody knows

    # more descendants than one transaction may end: the rest is owed
    doomed = start("doomed")
    worker.report("doomed", "spawned", children=[{"task": "child", "queue": "away"}] * 3)
    conn.execute("update perdure.config set cancel_limit = 1")
    assert _one(conn, "select perdure.cancel(%s)", doomed) == ("cancelled",)
    conn.execute("update perdure.config set cancel_limit = default")
    return worker


def _one(conn: Conn, query: str, *given: Any) -> tuple[Any, ...]:
    row = conn.execute(query.encode(), given).fetchone()
    assert row
    return tuple(row)


def _dump(conn: Conn, columns: dict[str, list[str]]) -> Dump:
    return {
        table: conn.execute(
            sql.SQL("select {} from perdure.{} as t order by t::text").format(
                sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(table)
            )
        ).fetchall()
        for table, names in columns.items()
    }


def _migrate(conn: Conn) -> None:
    done = _schema.migrate(conn)
    assert (done.before, done.after) == ("0.1.0", _schema.client_version())
    assert done.migrations == tuple(_schema.migrations())


def _run_the_printed_sql(conn: Conn) -> None:
    before, text = commands._plan(conn)
    assert before == "0.1.0"
    with conn.transaction():
        conn.execute(text.encode())
    conn.execute("reset check_function_bodies")


@pytest.mark.parametrize("upgrade", [_migrate, _run_the_printed_sql])
def test_an_upgraded_schema_is_a_fresh_one(
    old: str,
    bare_db: str,
    connect: Connect,
    catalogue: Describe,
    upgrade: Callable[[Conn], None],
) -> None:
    conn = connect(old)
    upgrade(conn)
    _schema.migrate(connect(bare_db))
    fresh = catalogue(bare_db)
    assert catalogue(old) == fresh

    # and again changes nothing
    version = _schema.client_version()
    assert _schema.migrate(conn) == _schema.Migrated(version, version, ())
    assert catalogue(old) == fresh
    for table in ("config", "retention"):
        query = f"select to_jsonb(t) - 'lock_namespace' from perdure.{table} as t"
        assert _one(conn, query) == _one(connect(bare_db), query)


def test_what_was_stored_is_still_there(at_work: OldWorker, old: str, connect: Connect) -> None:
    conn = connect(old)
    columns = dict(conn.execute(TABLES_OF_0_1_0).fetchall())
    del columns["config"], columns["migration"]  # what the upgrade itself is about
    before = _dump(conn, columns)
    assert [table for table, rows in before.items() if not rows] == [], "a room is not tried"
    assert conn.execute("select distinct phase from perdure.waiting order by 1").fetchall() == [
        *(("children",), ("finalize",), ("sleep",), ("steps",))
    ]
    assert _one(conn, "select count(*) from perdure.ready where is_aside") == (1,)
    shown = conn.execute("select to_jsonb(e) from perdure.executions as e order by id").fetchall()

    _migrate(conn)

    assert _dump(conn, columns) == before
    query = "select to_jsonb(e) - 'shard_key' from perdure.executions as e order by id"
    assert conn.execute(query).fetchall() == shown
    assert conn.execute("select * from perdure.fsck()").fetchall() == []


def test_work_goes_on_over_the_upgrade_until_all_of_it_has_ended(
    at_work: OldWorker, old: str, connect: Connect
) -> None:
    conn = connect(old)
    _migrate(conn)
    assert conn.execute("select name, is_alive, running from perdure.workers").fetchall() == [
        ("old", True, 2)
    ]
    conn.execute("update perdure.config set restart_grace = '0', worker_grace = '0'")
    _sweep(conn)

    # the same session, the same prepared statement
    at_work.report("hour", "completed", output="late")
    at_work.report("finalize", "completed", output=3)

    # what none knew, what was to be later, what waited to be woken
    other = OldWorker(connect(old), "other", ["default", "away"], ["unknown", "child", "first"])
    while claimed := other.exchange([], 1):
        other.report(claimed[0], "completed", output=claimed)
    assert _one(conn, "select status from perdure.wake('sleeper', 's')") == ("completed",)
    conn.execute(CLOCK.read_bytes())
    conn.execute("update perdure.test_clock set at = clock_timestamp() + interval '2 hours'")
    _sweep(conn)
    while claimed := at_work.exchange([], 1):
        at_work.report(claimed[0], "completed", output=claimed)
    _sweep(conn)

    ended = conn.execute(STATUSES).fetchall()
    wrong = {
        (task, status)
        for task, status in ended
        if status != "completed" and not (task == "child" and status == "cancelled")
    }
    assert wrong == {
        *(("failed", "failed"), ("timed_out", "timed_out"), ("cancelled", "cancelled")),
        ("doomed", "cancelled"),
    }
    assert len(ended) == 22
    assert _one(conn, "select count(*) from perdure.closing") == (0,)


def _sweep(conn: Conn) -> None:
    """As the old client did, until nothing is due."""
    while _one(conn, SWEEP, None, 1000)[-1]:
        pass


def test_a_report_that_met_the_upgrade_can_be_repeated(
    at_work: OldWorker, old: str, connect: Connect
) -> None:
    conn, other = connect(old), connect(old)
    id_, token = at_work.held["hour"]
    report = {"id": id_, "token": token, "outcome": "completed", "output": "late"}
    caught: list[psycopg.Error] = []

    def send() -> None:
        try:
            at_work.exchange([report], 0)
        except psycopg.Error as error:
            caught.append(error)

    sender = threading.Thread(target=send)
    with conn.transaction():
        _migrate(conn)
        sender.start()
        while not _one(
            other,
            "select %s = any(pg_blocking_pids(%s))",
            conn.info.backend_pid,
            at_work.conn.info.backend_pid,
        )[0]:
            assert sender.is_alive(), caught
    sender.join()

    ((result,),) = conn.execute(
        "select result from perdure.finish(%s, %s)", [at_work.incarnation, Jsonb([report])]
    ).fetchall()
    assert result == ("recorded" if caught else "already")
    assert _one(conn, "select status, output from perdure.get_execution(%s)", id_) == (
        "completed",
        "late",
    )


def test_workers_get_machine_ids_in_the_order_they_came(old: str, connect: Connect) -> None:
    workers = [OldWorker(connect(old), name, ["default"], ["a"]) for name in "abcd"]
    conn = connect(old)
    conn.execute("select perdure.unregister_worker(%s)", [workers[1].incarnation])
    _migrate(conn)
    query = "select name, machine_id, mode, is_healthy, is_alive from perdure.workers order by 2"
    assert conn.execute(query).fetchall() == [
        ("a", 1, "session", True, True),
        ("c", 2, "session", True, True),
        ("d", 3, "session", True, True),
    ]
    OldWorker(connect(old), "e", ["default"], ["a"])
    assert conn.execute(query).fetchall()[3:] == [("e", 4, "session", True, True)]


def test_a_worker_that_died_over_the_upgrade_is_recovered(
    at_work: OldWorker, old: str, connect: Connect
) -> None:
    conn = connect(old)
    assert _one(conn, "select pg_terminate_backend(%s, 60000)", at_work.conn.info.backend_pid)[0]
    _migrate(conn)
    conn.execute("update perdure.config set restart_grace = '0', worker_grace = '0'")
    _sweep(conn)
    assert _one(conn, "select count(*) from perdure.worker") == (0,)
    query = "select task, status, crashes from perdure.executions where crashes > 0 order by 1"
    assert conn.execute(query).fetchall() == [("finalize", "ready", 1), ("hour", "ready", 1)]


@pytest.mark.parametrize(("before", "after"), [("1 second", "0.5 seconds"), ("3 seconds",) * 2])
def test_a_setting_is_changed_only_where_it_was_the_default(
    old: str, connect: Connect, before: str, after: str
) -> None:
    conn = connect(old)
    conn.execute(
        "update perdure.config set worker_grace = %s::interval, payload_limit = 4096", [before]
    )
    _migrate(conn)
    query = "select worker_grace = %s::interval, payload_limit from perdure.config"
    assert _one(conn, query, after) == (True, 4096)


def test_the_client_of_0_1_0_is_understood(old: str, connect: Connect) -> None:
    before = _described(connect(old))
    assert len(before) == 21
    _migrate(connect(old))
    assert _described(connect(old)) == before


def test_a_worker_of_0_1_0_may_resume(at_work: OldWorker, old: str, connect: Connect) -> None:
    _migrate(connect(old))
    ids = [id_ for id_, _ in at_work.held.values()]
    leases = at_work.conn.execute(RESUME, [at_work.incarnation, ids, 1000]).fetchall()
    assert sorted(leases) == sorted(at_work.held.values())


def _described(conn: Conn) -> dict[str, list[tuple[bytes | None, int]]]:
    """Every statement of the client of 0.1.0 → names and types of its parameters and columns."""
    text = (HERE / "statements-0.1.0.sql").read_text()
    found: dict[str, list[tuple[bytes | None, int]]] = {}
    for statement in text.partition("\n\n")[2].split(";\n"):
        if not statement.strip():
            continue
        conn.pgconn.prepare(b"", statement.encode())
        result = conn.pgconn.describe_prepared(b"")
        assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, (
            f"{statement}: {result.error_message!r}"
        )
        found[statement] = [(None, result.param_type(n)) for n in range(result.nparams)]
        found[statement] += [(result.fname(n), result.ftype(n)) for n in range(result.nfields)]
    return found


def test_a_failing_upgrade_leaves_0_1_0_at_work(
    at_work: OldWorker, old: str, connect: Connect, catalogue: Describe, release: Path
) -> None:
    conn = connect(old)
    columns = dict(conn.execute(TABLES_OF_0_1_0).fetchall())
    before = catalogue(old), _dump(conn, columns)
    bad = release / "migrations" / "9001_bad.sql"
    bad.write_text("select 1 / 0;\n")
    with pytest.raises(psycopg.errors.DivisionByZero):
        _schema.migrate(conn)
    assert (catalogue(old), _dump(conn, columns)) == before
    assert _one(conn, "select perdure.version()") == ("0.1.0",)
    at_work.report("hour", "completed")

    bad.unlink()
    _migrate(conn)
    at_work.report("finalize", "completed")
