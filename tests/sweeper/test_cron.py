"""The real pg_cron alone keeps a system right; and what `schedule_sweeps` has it do."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_due import DUE, no_grace
from fix_engine import Engine
from fix_server import Server, fast_place
from fix_sessions import Sessions
from perdure import _schema
from perdure._server import THROW_AWAY, LocalServer

Until = Callable[..., None]

SETTINGS = {
    **THROW_AWAY,
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    "cron.use_background_workers": "on",
    "max_worker_processes": "16",
}


@pytest.fixture(scope="module")
def cron_server(server: Server) -> Iterator[str]:
    """A server with pg_cron, which is at home in its database postgres; no schema anywhere yet."""
    available = "select 1 from pg_available_extensions where name = 'pg_cron'"
    if server.local is None or not server.admin.execute(available).fetchone():
        pytest.skip("pg_cron is not installed beside this server")
    row = server.admin.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
    assert row
    folder = Path(tempfile.mkdtemp(prefix="perdure-test-", dir=fast_place()))
    try:
        with LocalServer(folder, binaries=Path(row[0]), settings=SETTINGS) as local:
            yield local.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cron_db(cron_server: str) -> Iterator[str]:
    """pg_cron's own database, with the schema; afterwards neither is there, and no job."""
    with psycopg.connect(cron_server, autocommit=True) as conn:
        conn.execute("create extension pg_cron")
        conn.execute(_schema.install_sql().encode())
        yield cron_server
        found = conn.execute("select * from perdure.fsck()").fetchall()
        conn.execute("drop extension pg_cron cascade")
        # a job that began at the turn of the minute still sweeps: it would cross the drop's locks
        conn.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where query like 'call perdure.sweep_for%' and pid <> pg_backend_pid()"
        )
        conn.execute("drop schema perdure cascade")
    assert not found, f"fsck: {found}"


@pytest.fixture
def cron(cron_db: str) -> Iterator[Engine]:
    with psycopg.connect(cron_db, autocommit=True) as conn:
        yield Engine(conn)


def _jobs(engine: Engine) -> list[dict[str, Any]]:
    return engine.query(
        "select jobname as job, schedule, command, database from cron.job order by jobname"
    )


def _pretend(engine: Engine, version: str) -> None:
    engine.run("update pg_extension set extversion = %s where extname = 'pg_cron'", version)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_g20_pg_cron_alone_keeps_a_system_right(cron_db: str, cron: Engine, until: Until) -> None:
    """No worker, no resident sweeper: whatever time causes is done within the minute and a bit."""
    no_grace(cron)
    (scheduled,) = cron.rows("schedule_sweeps", every="1 second")
    sessions = Sessions(cron_db)
    try:
        done = [due(cron, sessions) for due in DUE]
        until(lambda: all(is_done() for is_done in done), within=75)
        assert cron.one("select count(*) from perdure.leader") == 0
    finally:
        sessions.close()
    runs = cron.query("select command, status from cron.job_run_details")
    assert {row["command"] for row in runs} == {scheduled["command"]}
    assert {row["status"] for row in runs} <= {"running", "starting", "succeeded"}
    assert cron.value("unschedule_sweeps") == 1


# The version decides


@pytest.mark.parametrize("version", ["1.4-1", "1.3", "1.0"])
def test_where_it_ticks_by_the_minute_each_run_goes_on(cron: Engine, version: str) -> None:
    _pretend(cron, version)
    row = cron.row("schedule_sweeps", "mail", "2 seconds")
    assert row == {
        "job": "perdure sweep mail",
        "schedule": "* * * * *",
        "command": "call perdure.sweep_for('mail', '58 s', every => '2 s')",
    }
    assert _jobs(cron) == [row | {"database": "postgres"}]


@pytest.mark.parametrize("version", ["1.5", "1.6", "1.10", "2.0"])
def test_where_it_knows_seconds_it_is_called_each_time(cron: Engine, version: str) -> None:
    """This pg_cron refuses such a schedule: that it is asked for one is seen."""
    _pretend(cron, version)
    cron.run("create table public.asked (job text, schedule text, command text)")
    real = "select oid::regprocedure::text from pg_proc where proname = 'schedule' and pronargs = 3"
    cron.run(f"alter function {cron.one(real)} rename to really_schedule")
    cron.run(
        "create function cron.schedule(text, text, text) returns bigint"
        " language sql as 'insert into public.asked values ($1, $2, $3) returning 1'"
    )
    row = cron.row("schedule_sweeps", None, "1.5 seconds")
    assert row == {
        "job": "perdure sweep",
        "schedule": "2 seconds",
        "command": "call perdure.sweep_for(NULL, '2 s')",
    }
    assert cron.query("select * from public.asked") == [row]
    cron.run("drop function cron.schedule(text, text, text)")
    cron.run("drop table public.asked")


def test_scheduling_again_changes_the_job_and_adds_none(cron: Engine) -> None:
    for _ in range(2):
        for every in ("1 second", "5 seconds"):
            cron.row("schedule_sweeps", every=every)
            cron.row("schedule_sweeps", "mail", every)
    jobs = _jobs(cron)
    assert [job["job"] for job in jobs] == ["perdure sweep", "perdure sweep mail"]
    assert all("every => '5 s'" in job["command"] for job in jobs)


@pytest.mark.parametrize("channel", ['it\'s "mail"', "\\mail", "c" * 255, "😀" * 255])
def test_any_channel_can_be_scheduled(cron: Engine, channel: str) -> None:
    row = cron.row("schedule_sweeps", channel)
    cron.run(row["command"].replace("58 s", "0"))
    cron.row("schedule_sweeps", channel + "s" if len(channel) < 255 else "s" + channel[1:])
    assert len(_jobs(cron)) == 2
    assert cron.value("unschedule_sweeps") == 2


def test_unscheduling_leaves_other_jobs_alone(cron: Engine) -> None:
    cron.run("select cron.schedule('perdure sweeping floors', '* * * * *', 'select 1')")
    cron.row("schedule_sweeps")
    assert cron.value("unschedule_sweeps") == 1
    assert [job["job"] for job in _jobs(cron)] == ["perdure sweeping floors"]
    assert cron.value("unschedule_sweeps") == 0


@pytest.mark.parametrize("every", [None, "0 s", "-1 s", "60 s", "1 day"])
def test_every_is_1_to_59_seconds(cron: Engine, every: str | None) -> None:
    with pytest.raises(psycopg.Error) as caught:
        cron.rows("schedule_sweeps", None, every)
    assert caught.value.sqlstate == "QD023"
    assert _jobs(cron) == []


# Where it is not


def _refusal(engine: Engine, function: str) -> str:
    with pytest.raises(psycopg.Error) as caught:
        engine.rows(function)
    assert caught.value.sqlstate == "QD015"
    assert "pg_cron is not in database" in str(caught.value.diag.message_primary)
    return str(caught.value.diag.message_hint)


@pytest.mark.parametrize("function", ["schedule_sweeps", "unschedule_sweeps"])
def test_a_server_without_pg_cron_is_told_so_and_what_to_do(engine: Engine, function: str) -> None:
    hint = _refusal(engine, function)
    assert "shared_preload_libraries" in hint
    assert "perdure.sweep()" in hint


def test_a_database_without_the_extension_is_told_to_create_it(cron: Engine) -> None:
    cron.run("drop extension pg_cron cascade")
    assert _refusal(cron, "schedule_sweeps").startswith("create extension pg_cron")
    cron.run("create extension pg_cron")


def test_another_database_is_told_where_pg_cron_is(cron: Engine, cron_db: str) -> None:
    """And what it says there works."""
    cron.run("create database elsewhere")
    try:
        with psycopg.connect(cron_db, dbname="elsewhere", autocommit=True) as conn:
            conn.execute(_schema.install_sql().encode())
            hint = _refusal(Engine(conn), "schedule_sweeps")
        assert "at home in database postgres" in hint
        cron.run("select " + hint.split("There: select ")[1])
        (job,) = _jobs(cron)
        assert (job["job"], job["database"]) == ("perdure sweep", "elsewhere")
        assert cron.value("unschedule_sweeps") == 0, "that database's are its own"
        with psycopg.connect(cron_db, dbname="elsewhere", autocommit=True) as conn:
            conn.execute(job["command"].replace("58 s", "0"))
    finally:
        cron.run("drop database elsewhere with (force)")
