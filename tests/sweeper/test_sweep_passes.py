"""A pass is bounded, starves nobody, and is all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from fix_due import DUE, no_grace
from fix_engine import Engine
from fix_sessions import Sessions

Until = Callable[[Callable[[], Any]], None]


def _backlog(engine: Engine, sessions: Sessions, times: int) -> None:
    """A lot of everything, all of it due."""
    no_grace(engine)
    session = sessions.open()
    engine.run("update perdure.config set cancel_limit = 1")
    root = session.start("root")
    session.spawn(root, ["leaf"] * times)
    engine.value("cancel", root.id)
    engine.run("update perdure.config set cancel_limit = 10000")
    engine.rows("enqueue_many", [{"task": "dies"}] * times)
    gone = sessions.open()
    gone.claim(times, tasks=["dies"])
    engine.lose_worker(gone.conn)
    engine.rows("enqueue_many", [{"task": "late", "deadline": 1}] * times)
    engine.rows("enqueue_many", [{"task": "later", "delay": 1}] * times)
    old = [{"task": "old", "key": f"{n}", "key_for": "1 ms"} for n in range(times)]
    for row in engine.rows("enqueue_many", old):
        engine.value("cancel", row["id"])
    knowing = sessions.open()
    knowing.value("register_worker", "knowing", ["crowded"], ["known"])
    engine.rows("enqueue_many", [{"task": "foreign", "queue": "crowded"}] * times)
    engine.run("update perdure.config set retention = '1 hour'")
    engine.advance(2)


def test_a_pass_moves_at_most_so_many_of_each_kind(engine: Engine, sessions: Sessions) -> None:
    _backlog(engine, sessions, 100)
    engine.run("update perdure.finished set finished_at = finished_at - interval '1 day'")
    engine.run(
        "update perdure.execution set created_at = created_at - interval '1 day'"
        " where id in (select id from perdure.finished)"
    )
    total = dict.fromkeys(("promoted", "recovered", "timed_out", "moved", "forgotten"), 0)
    passes = 0
    while True:
        row = engine.row("sweep", max=7)
        assert max(row[name] for name in ("promoted", "recovered", "timed_out", "closed")) <= 7
        assert max(row[name] for name in ("forgotten", "deleted")) <= 7
        assert row["moved"] <= 70
        total = {name: n + row[name] for name, n in total.items()}
        passes += 1
        if not row["more"]:
            break
    assert total == dict.fromkeys(total, 100)
    assert passes >= 100 / 7
    assert engine.one("select count(*) from perdure.ready where task = 'leaf'") == 0


@pytest.mark.parametrize("part", ["leases", "deadlines", "closing", "scheduled", "aside", "keys"])
def test_a_piece_of_one_kind_is_small(engine: Engine, sessions: Sessions, part: str) -> None:
    """Some ten milliseconds each, so a pass has turns for all of them."""
    most = {"leases": 100, "deadlines": 50, "closing": 50, "aside": 500}.get(part, 500)
    _backlog(engine, sessions, 600)
    query = "select * from perdure._sweep_part(%s, null, 100000, perdure._clock())"
    (row,) = engine.query(query, part)
    assert row["is_full"]
    assert 1 <= row["amount"] <= most
    if part == "closing":
        assert engine.one("select count(*) from perdure.finished where status = 'cancelled'") <= 900


def test_what_comes_last_is_not_starved_by_what_comes_first(
    engine: Engine, sessions: Sessions
) -> None:
    """However slow the first part: each pass has a turn for all of them."""
    no_grace(engine)
    engine.run(
        """
        create function public.dawdle() returns trigger language plpgsql as $$ begin
          perform pg_sleep(0.06);
          return null;
        end $$
        """
    )
    engine.run(
        "create trigger dawdle after delete on perdure.running"
        " for each statement execute function public.dawdle()"
    )
    hung = sessions.open()
    engine.rows("enqueue_many", [{"task": "hangs", "timeout": 0.001}] * 400)
    hung.claim(400)
    engine.value("cancel", engine.enqueue("keyed", key="k", key_for="1 ms"))
    engine.advance(1)
    row = engine.row("sweep")
    assert (row["recovered"], row["more"]) == (100, True), "the first part has more to do"
    assert row["forgotten"] == 1


def test_a_part_whose_rows_are_locked_does_not_ask_to_be_called_at_once(
    engine: Engine, sessions: Sessions
) -> None:
    engine.enqueue("later", delay="1 s")
    engine.advance(2)
    other = sessions.open()
    with other.conn.transaction():
        other.run("select from perdure.scheduled for update")
        assert engine.row("sweep") | {"promoted": 0, "more": False} == engine.row("sweep")


# Half-way

_BREAKABLE = {
    "attempt": "insert",
    "closing": "delete",
    "deadline": "delete",
    "execution": "delete",
    "finished": "insert",
    "key": "delete",
    "leader": "update",
    "ready": "insert",
    "retention": "update",
    "running": "delete",
    "scheduled": "delete",
    "waiting": "update",
    "worker": "delete",
}


@pytest.mark.parametrize("table", list(_BREAKABLE))
def test_a_pass_that_fails_half_way_changes_nothing_and_the_next_one_goes_on(
    engine: Engine, sessions: Sessions, until: Until, table: str
) -> None:
    no_grace(engine)
    done = [due(engine, sessions) for due in DUE]
    engine.advance(1)
    engine.run(
        """
        create function public.fail() returns trigger language plpgsql as $$ begin
          raise exception 'out of order' using errcode = 'XX000';
        end $$
        """
    )
    engine.run(
        f"create trigger fail before {_BREAKABLE[table]} on perdure.{table}"
        " for each row execute function public.fail()"
    )
    failure = None
    for _ in range(20):  # a pass whose time is up leaves a part to the next one
        before = _everything(engine)
        try:
            engine.row("sweep", "mail")
        except psycopg.errors.InternalError_ as error:
            failure = error.diag.message_primary
            break
    assert failure == "out of order"
    assert _everything(engine) == before
    engine.run(f"drop trigger fail on perdure.{table}")

    def sweep() -> bool:
        engine.advance(1)
        engine.row("sweep", "mail")
        return all(is_done() for is_done in done)

    until(sweep)


def _everything(engine: Engine) -> Any:
    others = ("worker", "leader", "retention", "worker_lease")
    return engine.dump() | {
        table: engine.query(f"select t::text from perdure.{table} as t order by 1")
        for table in others
    }
