"""What a life costs: bytes of write-ahead log and statements, never time."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Sessions

_LIVES = 2_000
_BATCH = 100


def _wal(engine: Engine) -> int:
    return int(engine.one("select pg_current_wal_insert_lsn() - '0/0'"))


def _drain(engine: Engine) -> int:
    """Run everything as no-ops; how many exchanges it took."""
    outcomes: list[Any] = []
    calls = 0
    after = None
    while True:
        given = Jsonb(outcomes) if outcomes else None
        row = engine.row("exchange", engine.worker, given, want=_BATCH, after=after)
        calls += 1
        leases = [Lease(*claimed) for claimed in row["claimed"] or []]
        outcomes = [outcome_of(lease, "completed", output={"ok": True}) for lease in leases]
        after = row["next_after"] if len(leases) == _BATCH else None
        if not leases:
            return calls


@pytest.mark.usefixtures("db")
def test_a_life_writes_at_most_1200_bytes_of_wal(engine: Engine) -> None:
    if engine.one("show full_page_writes") == "on":
        pytest.skip("this server writes full pages, whose number depends on its checkpoints")
    assert engine.worker
    before = _wal(engine)
    for start in range(0, _LIVES, 1_000):
        items = [
            {"task": "noop", "input": {"i": n, "msg": "hello world payload"}}
            for n in range(start, start + 1_000)
        ]
        engine.rows("enqueue_many", Jsonb(items))
    calls = _drain(engine)
    per_life = (_wal(engine) - before) / _LIVES
    assert per_life <= 1_200, f"{per_life:.0f} bytes"
    assert engine.one("select count(*) from perdure.finished") == _LIVES
    assert calls <= _LIVES / _BATCH + 2, "one statement for a batch of outcomes and the next claim"


@pytest.mark.parametrize("later", [False, True])
def test_an_idle_exchange_writes_nothing(engine: Engine, sessions: Sessions, later: bool) -> None:
    lease = engine.start()
    if later:
        engine.enqueue(delay="1 hour")
    given: dict[str, Any] = {"want": 100, "held": [lease.id], "call": 7}
    engine.row("exchange", engine.worker, **given)
    watch = sessions.open()
    before = _wal(watch)
    with engine.conn.transaction():
        row = engine.row("exchange", engine.worker, Jsonb([]), **given)
        assert engine.one("select pg_current_xact_id_if_assigned() is null")
    assert (row["claimed"], row["gone"], row["more"]) == (None, [], False)
    assert (row["wait_ms"] is not None) == later
    assert _wal(watch) - before < 200, "nothing but what the server notes by itself"
