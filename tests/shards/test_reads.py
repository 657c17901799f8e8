"""Claims from shards read what they take, however much stands in the lines and behind one key.

Counted are rows, never time, under fresh and stale statistics, generic and custom plans.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fix_engine import outcome_of
from fix_sessions import Sessions
from fix_shards import Member, Shards

_PLANS = pytest.mark.parametrize(
    ("mode", "is_analysed"),
    [
        ("auto", False),
        ("force_generic_plan", True),
        ("force_custom_plan", False),
        ("force_custom_plan", True),
    ],
)
_HOT = 100_000


def _reads(member: Member, call: Callable[[], Any]) -> int:
    """Rows that the call reads by index; none may be read by scanning a big table."""
    session = member.session
    with session.conn.transaction():
        before = _counted(member)
        call()
        scanned, fetched = (
            after - was for after, was in zip(_counted(member), before, strict=True)
        )
    assert scanned == 0, "a sequential scan"
    return fetched


def _counted(member: Member) -> tuple[int, int]:
    (row,) = member.session.query(
        """
        select coalesce(sum(pg_stat_get_xact_tuples_returned(c.oid)), 0)::bigint as scanned,
          coalesce(sum(pg_stat_get_xact_tuples_fetched(c.oid) + (
            select coalesce(sum(pg_stat_get_xact_tuples_fetched(i.indexrelid)), 0)
            from pg_index as i
            where i.indrelid = c.oid
          )), 0)::bigint as fetched
        from pg_class as c
        where c.relnamespace = 'perdure'::regnamespace and c.relkind = 'r'
          and c.relname not in ('config', 'worker', 'worker_lease', 'test_clock', 'closing')
        """
    )
    return row["scanned"], row["fetched"]


def _fill(shards: Shards, key: str, times: int) -> None:
    """So many executions, written by hand; their keys are made by an SQL expression over n."""
    shards.engine.run(
        f"""
        with made as (
          select nextval('perdure.execution_id_seq') as id, {key} as shard_key
          from generate_series(1, {times}) as n
        ), fact as (
          insert into perdure.execution (
            id, root_id, created_at, start_at, timeout_ms, retry_multiplier, retry_jitter,
            retry_delay_ms, retry_max_delay_ms, max_attempts, max_crashes, priority, is_linear,
            is_sleeping, is_finalize, task, queue, input, shard_key
          )
          select m.id, m.id, now(), now(), 300000, 2, 0, 1000, 1000, 1, 3, 0, false, false, false,
            't', 'q', '{{}}', m.shard_key
          from made as m
        )
        insert into perdure.ready (
          id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task,
          shard, shard_key
        )
        select m.id, now(), 0, 0, 0, 0, 2, 0, true, 'q', 't', perdure._shard_of('q', m.shard_key),
          m.shard_key
        from made as m
        """
    )


def _set_up(shards: Shards, mode: str, number: int = 1) -> Member:
    """Statistics and, for generic plans, the plans themselves are from when all was empty."""
    shards.engine.run("analyze")
    shards.make(shards=number)
    member = shards.join()
    member.session.run(f"set plan_cache_mode = {mode}")
    for _ in range(8):
        with member.session.conn.transaction(force_rollback=True):
            member.session.enqueue(queue="q", shard_key="a")
            member.session.enqueue(queue="q", shard_key="a")
            member.complete(*member.claim(5))
            member.complete(*member.claim(5))
    return member


@_PLANS
def test_a_hot_key_in_front_is_read_once(shards: Shards, mode: str, is_analysed: bool) -> None:
    member = _set_up(shards, mode)
    _fill(shards, "'hot'", _HOT)
    others = [shards.one(f"other {n}") for n in range(20)]
    if is_analysed:
        shards.engine.run("analyze")
    (hot,) = member.exchange(want=1)["claimed"]
    calls = 0
    rows: list[dict[str, Any]] = []
    got: list[int] = []
    while not got:
        assert _reads(member, lambda: rows.append(member.exchange(want=20))) <= 12 * 4_000
        assert rows[-1]["more"] or rows[-1]["claimed"], "it asks again at once"
        got = [row[0] for row in rows[-1]["claimed"] or []]
        calls += 1
        assert calls < 60
    while len(got) < len(others):
        claimed = member.exchange(want=20)["claimed"]
        got += [row[0] for row in claimed]
    assert got == others
    assert len(shards.held()) == _HOT - 1
    late = shards.one("late")
    assert _reads(member, lambda: member.exchange(want=20)) <= 40, "they are out of the line"
    assert shards.engine.status(late) == "running"
    outcomes = [{"id": hot[0], "token": hot[1], "outcome": "completed"}]
    assert _reads(member, lambda: member.exchange(outcomes, want=20)) <= 60
    shards.engine.run("analyze")  # for fsck


@_PLANS
def test_a_claim_reads_a_few_rows_for_each_that_it_takes(
    shards: Shards, mode: str, is_analysed: bool
) -> None:
    member = _set_up(shards, mode, 64)
    _fill(shards, "'key ' || n", 50_000)
    if is_analysed:
        shards.engine.run("analyze")
    leases: list[Any] = []
    for _ in range(3):
        reads = _reads(member, lambda: leases.extend(member.claim(100)))
        assert reads <= 14 * 100
    assert len(leases) == 300
    assert _reads(member, lambda: leases.extend(member.claim(1))) <= 6 * 64
    outcomes = [outcome_of(lease, "completed") for lease in leases[:100]]
    assert _reads(member, lambda: member.exchange(outcomes)) <= 10 * 100


def test_a_claim_is_filled_from_one_shard_alone(shards: Shards) -> None:
    member = _set_up(shards, "auto", 64)
    number = shards.shard_of("key 0")
    keys = shards.engine.query(
        "select k.key from (select 'key ' || n as key from generate_series(1, 20000) as n) as k"
        " where perdure._shard_of('q', k.key) = %s limit 120",
        number,
    )
    ids = [shards.one(row["key"]) for row in keys]
    got: list[int] = []
    assert _reads(member, lambda: got.extend(member.claim_ids(100))) <= 14 * 100
    assert got == ids[:100]


def test_the_question_of_an_idle_owner_is_cheap_and_writes_nothing(
    shards: Shards, sessions: Sessions
) -> None:
    shards.make(shards=64)
    member = shards.join()
    (lease,) = (shards.one("k"), member.claim(5))[1]
    shards.enqueue("k", 3)
    assert member.claim_ids() == []
    assert len(shards.held()) == 3
    given: dict[str, Any] = {"want": 100, "held": [lease.id]}
    assert _reads(member, lambda: member.exchange(**given)) <= 5
    with member.session.conn.transaction():
        row = member.exchange(**given)
        assert member.session.one("select pg_current_xact_id_if_assigned() is null")
    assert (row["claimed"], row["more"], row["wake"]) == (None, False, False)


def test_what_stands_in_another_s_shards_is_no_reason_to_write(shards: Shards) -> None:
    shards.make(shards=16)
    one, other = shards.join(), shards.join()
    for n in range(100):
        shards.one(f"k {n}")
    one.claim(100)
    assert shards.engine.one("select count(*) from perdure.ready") > 20
    with one.session.conn.transaction():
        one.exchange(want=100)
        assert one.session.one("select pg_current_xact_id_if_assigned() is null")
    assert _reads(one, lambda: one.exchange(want=100)) <= 40
    assert len(other.claim(100)) > 20
