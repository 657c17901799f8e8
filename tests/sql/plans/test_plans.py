"""Hot statements read what their batch needs, whatever the tables hold and the statistics say.

Counted are rows and pages, never time: of the big tables no row may be read by a sequential scan,
and through indexes only so many for each execution of the batch; and an index that is read from end
to end to find a single row shows in the pages. Measured in transactions that are rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Sessions

pytestmark = pytest.mark.fsck(False)  # the big state is written by hand

_BATCH = 100
_BIG = (
    *("execution", "scheduled", "ready", "running", "waiting", "finished"),
    *("parked", "step", "closing", "key", "deadline", "attempt"),
)
_MODES = ("auto", "force_generic_plan", "force_custom_plan")

# Committed by hand, set by set: 300,000 finished, a parent of 100,000 ready children, 50,000
# sleepers with keys and deadlines, 5,000 leases of another worker, 1,000,000 due tomorrow.
_PARENT = 300_001
_FILL = """
insert into perdure.execution (
  id, parent_id, parent_generation, position, root_id, created_at, start_at, timeout_ms,
  retry_multiplier, retry_jitter, retry_delay_ms, retry_max_delay_ms, max_attempts, max_crashes,
  priority, is_linear, is_sleeping, is_finalize, task, queue, key, key_scope, input
)
select
  n, case when kind = 'child' then 300001 end, case when kind = 'child' then 1 end,
  case when kind = 'child' then n - 300002 end, case when kind = 'child' then 300001 else n end,
  now(), now() - interval '1 hour', 300000, 2, 0.1, 1000, 3600000, 3, 3, 0, false,
  kind = 'asleep', false, kind, 'default', case when kind = 'asleep' then 'key ' || n end,
  case when kind = 'asleep' then 'asleep' end, '{}'
from (
  select n, case
      when n <= 300000 then 'old' when n = 300001 then 'parent' when n <= 400001 then 'child'
      when n <= 450001 then 'asleep' else 'leased'
    end as kind
  from generate_series(1, 455001) as n
) as x;
insert into perdure.finished (id, finished_at, token, attempts, crashes, iteration, status)
select n, now(), 1, 1, 0, 0, 'completed' from generate_series(1, 300000) as n;
insert into perdure.attempt (execution_id, token, attempt, ended_at, status)
select n, 0, 1, now(), 'failed' from generate_series(1, 100000) as n;
insert into perdure.waiting (
  id, since, generation, active, token, attempts, crashes, iteration, is_keyed, phase, task
)
values (300001, now(), 1, 100000, 1, 0, 0, 0, false, 'children', 'parent');
insert into perdure.ready (
  id, start_at, parent_id, parent_generation, token, attempts, crashes, iteration, bytes, priority,
  is_keyed, queue, task
)
select n, now() - interval '1 hour', 300001, 1, 0, 0, 0, 0, 10, 0, false, 'default', 'child'
from generate_series(300002, 400001) as n;
insert into perdure.waiting (
  id, since, generation, active, token, attempts, crashes, iteration, is_keyed, phase, task
)
select n, now(), 0, 0, 0, 0, 0, 0, true, 'sleep', 'asleep'
from generate_series(400002, 450001) as n;
insert into perdure.key (scope, key, id, keep_ms)
select 'asleep', 'key ' || n, n, 0 from generate_series(400002, 450001) as n;
insert into perdure.deadline (id, at)
select n, now() + interval '1 day' from generate_series(400002, 450001) as n;
insert into perdure.running (
  id, started_at, expires_at, worker_id, token, attempts, crashes, iteration, is_keyed, task
)
select n, now(), now() + interval '1 day', 0, 1, 0, 0, 0, false, 'leased'
from generate_series(450002, 455001) as n;
insert into perdure.scheduled (
  id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
)
select n, now() + interval '1 day', 0, 0, 0, 0, 10, 0, false, 'default', 'later'
from generate_series(1000001, 2000000) as n;
select setval('perdure.execution_id_seq', 2000000);
"""

# As _FILL, but of each room only one; for the planner any way to a single row costs the same.
_ONE_OF_EACH = """
insert into perdure.execution (
  id, root_id, created_at, start_at, timeout_ms, retry_multiplier, retry_jitter, retry_delay_ms,
  retry_max_delay_ms, max_attempts, max_crashes, priority, is_linear, is_sleeping, is_finalize,
  task, queue, key, key_scope
)
values (
  0, 0, now(), now(), 300000, 2, 0.1, 1000, 3600000, 3, 3, 0, false, false, false, 'one',
  'elsewhere', 'key', 'one'
);
insert into perdure.ready (
  id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
)
values (-1, now(), 0, 0, 0, 0, 10, 0, false, 'elsewhere', 'one');
insert into perdure.scheduled (
  id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
)
values (-2, now() + interval '1 day', 0, 0, 0, 0, 10, 0, false, 'elsewhere', 'one');
insert into perdure.running (
  id, started_at, expires_at, worker_id, token, attempts, crashes, iteration, is_keyed, task
)
values (-3, now(), now() + interval '1 day', 0, 1, 0, 0, 0, false, 'one');
insert into perdure.waiting (
  id, since, generation, active, token, attempts, crashes, iteration, is_keyed, phase, task
)
values (-4, now(), 1, 1, 1, 0, 0, 0, false, 'children', 'one');
insert into perdure.finished (id, finished_at, token, attempts, crashes, iteration, status)
values (0, now(), 1, 1, 0, 0, 'completed');
insert into perdure.attempt (execution_id, token, attempt, ended_at, status)
values (0, 0, 1, now(), 'failed');
insert into perdure.parked (id) values (-4);
insert into perdure.step (parent_id, position, item) values (-4, 1, '{}');
insert into perdure.key (scope, key, id, keep_ms) values ('one', 'key', -4, 0);
insert into perdure.deadline (id, at) values (-5, now() + interval '1 day');
insert into perdure.closing (kind, execution_id, generation, due_at)
values ('recount', -6, 1, now() + interval '1 day');
"""


@dataclass(frozen=True, slots=True)
class Reads:
    by_scan: int
    by_index: int
    pages: int

    def __sub__(self, other: Reads) -> Reads:
        return Reads(
            self.by_scan - other.by_scan, self.by_index - other.by_index, self.pages - other.pages
        )


def reads_of(conn: psycopg.Connection[Any]) -> Reads:
    """Rows of the big tables that this transaction has read."""
    row = conn.execute(
        """
        select sum(pg_stat_get_xact_tuples_returned(c.oid))::bigint,
          sum(pg_stat_get_xact_tuples_fetched(c.oid) + (
            select coalesce(sum(pg_stat_get_xact_tuples_fetched(i.indexrelid)), 0)
            from pg_index as i
            where i.indrelid = c.oid
          ))::bigint,
          sum(pg_stat_get_xact_blocks_fetched(c.oid) + (
            select coalesce(sum(pg_stat_get_xact_blocks_fetched(i.indexrelid)), 0)
            from pg_index as i
            where i.indrelid = c.oid
          ))::bigint
        from pg_class as c
        where c.relnamespace = 'perdure'::regnamespace and c.relname = any(%s)
        """,
        [list(_BIG)],
    ).fetchone()
    assert row
    return Reads(*row)


# A case prepares, yields once, and then does what is measured ----------------------------------

Case = Callable[[Engine], Iterator[None]]
_CASES: list[tuple[Case, int]] = []


def case(at_most: int) -> Callable[[Case], Case]:
    """Rows that may be read by index."""

    def add(function: Case) -> Case:
        _CASES.append((function, at_most))
        return function

    return add


def _exchange(engine: Engine, outcomes: list[Any] | None = None, **given: Any) -> dict[str, Any]:
    return engine.row("exchange", engine.worker, outcomes, **given)


def _completed(leases: list[Lease]) -> list[dict[str, Any]]:
    return [outcome_of(lease, "completed", output=1) for lease in leases]


@case(10)
def enqueue_many(engine: Engine) -> Iterator[None]:
    yield
    engine.rows("enqueue_many", [{"task": f"task {n}"} for n in range(_BATCH)])


@case(4 * _BATCH)
def enqueue_many_with_keys(engine: Engine) -> Iterator[None]:
    engine.rows("enqueue_many", [{"task": "a", "key": f"k {n}"} for n in range(_BATCH)])
    yield
    engine.rows("enqueue_many", [{"task": "a", "key": f"k {n}"} for n in range(_BATCH)])


@case(4 * _BATCH)
def claim_ready(engine: Engine) -> Iterator[None]:
    yield
    engine.claim(_BATCH)


@case(4 * _BATCH)
def exchange_that_claims(engine: Engine) -> Iterator[None]:
    yield
    _exchange(engine, want=_BATCH)


@case(4 * _BATCH)
def claim_after_a_cursor(engine: Engine) -> Iterator[None]:
    after = _exchange(engine, want=_BATCH)["next_after"]
    # past what other cases have claimed and rolled back
    after = _exchange(engine, want=_BATCH, after=after)["next_after"]
    yield
    _exchange(engine, want=_BATCH, after=after)


@case(3 * _BATCH)  # found, then taken
def finish(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    yield
    engine.finish(*_completed(leases))


@case(3 * _BATCH)
def finish_of_some_of_many_leases(engine: Engine) -> Iterator[None]:
    """Each is found by its id: not among all that the worker holds."""
    leases = engine.claim(20 * _BATCH)
    yield
    engine.finish(*_completed(leases[7::20]))


@case(8 * _BATCH)
def exchange_that_reports_claims_and_holds(engine: Engine) -> Iterator[None]:
    leases, held = engine.claim(_BATCH), engine.claim(_BATCH)
    yield
    _exchange(engine, _completed(leases), want=_BATCH, held=[lease.id for lease in held])


@case(_BATCH + 10)
def exchange_that_only_asks_for_what_is_gone(engine: Engine) -> Iterator[None]:
    held = engine.claim(_BATCH)
    yield
    _exchange(engine, held=[lease.id for lease in held])


@case(4 * _BATCH)
def reports_of_leases_that_are_not_held(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    outcomes = _completed(leases)
    engine.finish(*outcomes)
    yield
    engine.finish(*outcomes)


@case(3 * _BATCH)
def failures_that_are_retried(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    yield
    engine.finish(*(outcome_of(lease, "failed") for lease in leases))


@case(3 * _BATCH)
def releases_and_repetitions(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    yield
    engine.finish(*(outcome_of(lease, ("again", "released")[lease.id % 2]) for lease in leases))


@case(3 * _BATCH)
def parents_that_park(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    children = [{"task": "grandchild"}] * 3
    yield
    engine.finish(*(outcome_of(lease, "spawned", children=children) for lease in leases))


@case(6 * _BATCH)
def parents_that_end(engine: Engine) -> Iterator[None]:
    leases = engine.claim(_BATCH)
    children = [{"task": "grandchild", "priority": -1}]
    engine.finish(*(outcome_of(lease, "spawned", children=children) for lease in leases))
    leaves = engine.claim(_BATCH)
    yield
    engine.finish(*_completed(leaves))


@case(20)
def a_step_of_a_long_sequence(engine: Engine) -> Iterator[None]:
    (lease,) = engine.claim()
    steps = [{"task": "step", "priority": -1}] * 80
    engine.spawn(lease, steps, sequential=True)
    for _ in range(60):
        (step,) = engine.claim()
        engine.complete(step)
    (step,) = engine.claim()
    yield
    engine.complete(step)


@case(5)
def decrement_parents(engine: Engine) -> Iterator[None]:
    yield
    engine.value("decrement_parents", [_PARENT], [1], [1], [0])


@case(5 * _BATCH)
def expire_running(engine: Engine) -> Iterator[None]:
    engine.claim(_BATCH)
    engine.run(
        "update perdure.running"
        " set expires_at = now() - interval '1 s', started_at = '-infinity' where task = 'child'"
    )
    yield
    assert engine.value("expire_running", _BATCH) == _BATCH


@case(3 * _BATCH)
def promote(engine: Engine) -> Iterator[None]:
    engine.run("update perdure.scheduled set start_at = now() where id <= %s", 1_000_000 + _BATCH)
    yield
    assert engine.value("_promote", engine.one("select perdure._clock()"), 1000) == _BATCH


@case(25)
def wake(engine: Engine) -> Iterator[None]:
    yield
    assert engine.row("wake", "asleep", "key 425000", Jsonb(1))["is_woken"]


@case(20)
def wake_of_what_has_ended(engine: Engine) -> Iterator[None]:
    engine.row("wake", "asleep", "key 425000", Jsonb(1))
    yield
    assert not engine.row("wake", "asleep", "key 425000", Jsonb(1))["is_woken"]


@case(12)
def cancel(engine: Engine) -> Iterator[None]:
    yield
    assert engine.value("cancel", 350_000) == "cancelled"


@case(5 * _BATCH)
def cancel_of_a_tree(engine: Engine) -> Iterator[None]:
    lease = engine.claim()[0]
    engine.spawn(lease, [{"task": "grandchild"}] * _BATCH)
    yield
    assert engine.value("cancel", lease.id) == "cancelled"


@case(4 * 1000)
def a_part_of_a_large_cancel(engine: Engine) -> Iterator[None]:
    engine.run("update perdure.config set cancel_limit = 1000")
    engine.value("cancel", _PARENT)
    engine.value("close_batch")
    yield
    engine.value("close_batch")


@case(10 * _BATCH)
def deadlines(engine: Engine) -> Iterator[None]:
    engine.run("update perdure.deadline set at = now() where id <= %s", 400_001 + _BATCH)
    yield
    assert engine.value("expire_deadlines", _BATCH) == _BATCH


@case(10)
def sweep(engine: Engine) -> Iterator[None]:
    yield
    engine.row("sweep")


@case(2)
def the_question_of_an_idle_worker(engine: Engine) -> Iterator[None]:
    yield
    assert not engine.value("_has_due", ["idle"])


@case(4)
def the_question_of_an_idle_sweeper(engine: Engine) -> Iterator[None]:
    engine.run("update perdure.config set retention = '1 day'")
    yield
    engine.value("_is_due", None, engine.one("select perdure._clock()"))
    engine.value("_is_worker_lost", engine.one("select perdure._clock()"))
    engine.value("_is_retention_due", engine.one("select perdure._clock()"))
    engine.rows("_misplaced", None)


@case(8)
def retry_finished(engine: Engine) -> Iterator[None]:
    yield
    engine.value("retry_finished", 123_456)


@case(_BATCH)
def outcomes(engine: Engine) -> Iterator[None]:
    yield
    assert len(engine.rows("outcomes", list(range(1000, 1000 + _BATCH)))) == _BATCH


@case(4 * _BATCH)
def children(engine: Engine) -> Iterator[None]:
    yield
    assert len(engine.rows("children", _PARENT, after=50_000, max=_BATCH)) == _BATCH


@case(4 * _BATCH)
def finalize_inputs(engine: Engine) -> Iterator[None]:
    yield
    rows = engine.rows("finalize_inputs", [_PARENT, _PARENT], [1, 1], max=_BATCH // 2)
    assert len(rows) == _BATCH + 2


@case(8)
def get_execution(engine: Engine) -> Iterator[None]:
    yield
    engine.get(200_000)


@case(5)
def attempts(engine: Engine) -> Iterator[None]:
    yield
    engine.rows("attempts", 5_000)


@case(4 * _BATCH)
def tree(engine: Engine) -> Iterator[None]:
    yield
    assert len(engine.rows("tree", _PARENT, _BATCH)) == _BATCH


# ------------------------------------------------------------------------------------------


@pytest.fixture
def open_engine(db: str) -> Iterator[Callable[[str], Engine]]:
    opened: list[psycopg.Connection[Any]] = []
    worker = psycopg.connect(db, autocommit=True)
    opened.append(worker)
    incarnation = Engine(worker).worker

    def open_engine(mode: str) -> Engine:
        conn = psycopg.connect(db, autocommit=True)
        opened.append(conn)
        conn.execute(f"set plan_cache_mode = {mode}".encode())
        engine = Engine(conn)
        engine._worker = incarnation
        return engine

    yield open_engine
    for conn in opened:
        conn.close()


@pytest.mark.parametrize("former", ["no row", "one row"])
def test_hot_statements_read_what_they_need(
    open_engine: Callable[[str], Engine], former: str
) -> None:
    """Plans were made, and are made, by statistics of tables with as good as nothing in them."""
    control = open_engine("auto")
    control.run("update perdure.config set worker_grace = '1 day', restart_grace = '1 day'")
    if former == "one row":
        control.run(_ONE_OF_EACH)
    control.run("analyze")
    cold = {f"{mode}, planned with {former}": open_engine(mode) for mode in _MODES}
    for engine in cold.values():
        _warm(engine)
    for table in _BIG:
        control.run(f"delete from perdure.{table}")
    control.run(_FILL)
    wrong = []
    for state in (f"statistics of {former}", "analysed"):
        if state == "analysed":
            control.run("analyze")
        fresh = {mode: open_engine(mode) for mode in _MODES[:2]}
        for name, engine in {**cold, **fresh}.items():
            for prepared, bound in _CASES:
                reads = _measure(engine, prepared)
                if reads.by_scan or reads.by_index > bound or reads.pages > 20 * bound + 700:
                    wrong.append((state, name, prepared.__name__, reads, bound))
    assert wrong == [], "\n".join(map(str, wrong))


def test_executions_that_no_worker_knows_are_read_once(
    open_engine: Callable[[str], Engine], sessions: Sessions
) -> None:
    """100,000 of them stand first in the line; then come those that the worker knows."""
    engine = open_engine("auto")
    engine.run("update perdure.config set worker_grace = '1 day', restart_grace = '1 day'")
    engine.value("unregister_worker", engine.worker)
    engine._worker = str(engine.value("register_worker", "knowing", ["default"], ["known"]))
    for task, times in (("foreign", 100_000), ("known", 1_000)):
        engine.run(
            "select count(*) from perdure.enqueue_many((select"
            f" jsonb_agg(jsonb_build_object('task', '{task}')) from generate_series(1, {times})))"
        )
    after = engine.row("exchange", engine.worker, want=_BATCH)["next_after"]
    before_a_sweep = _measured(engine, lambda: _exchange(engine, want=_BATCH, after=after))
    assert before_a_sweep.by_scan == 0
    assert before_a_sweep.by_index <= 4 * _BATCH, "a claim remembers where they ended"

    aside = -1
    while (now := engine.one("select count(*) from perdure.ready where is_aside")) < 100_000:
        assert now > aside, "a pass is bounded in time, so their number is not known; each helps"
        aside = now
        reads = _measured(engine, lambda: engine.row("sweep"))
        assert reads.by_scan == 0
        assert reads.by_index <= 5 * 10_000
    after_it = _measured(engine, lambda: _exchange(engine, want=_BATCH))
    assert after_it.by_scan == 0
    assert after_it.by_index <= 4 * _BATCH, "they are out of the line"
    assert _measured(engine, lambda: engine.row("sweep")).by_index <= 5_000
    shown = "select count(*) from perdure.executions where status = 'ready' and task = 'foreign'"
    assert engine.one(shown) == 100_000, "and still they are shown as ready"

    expert = sessions.open()
    worker = expert.value("register_worker", "expert", ["default"], ["foreign"])
    assert len(expert.claim(_BATCH, worker)) == _BATCH, "at once"


def _measured(engine: Engine, call: Callable[[], Any]) -> Reads:
    with engine.conn.transaction():
        before = reads_of(engine.conn)
        call()
        return reads_of(engine.conn) - before


def _measure(engine: Engine, prepared: Case) -> Reads:
    with engine.conn.transaction(force_rollback=True):
        steps = prepared(engine)
        next(steps)
        before = reads_of(engine.conn)
        next(steps, None)
        return reads_of(engine.conn) - before


def _warm(engine: Engine) -> None:
    """Have every statement planned for good: from its sixth run on a plan may be generic."""
    for _ in range(7):
        with engine.conn.transaction(force_rollback=True):
            parent, other = engine.start(max_attempts=3), engine.start(max_attempts=3)
            engine.spawn(parent, ["a", "b"], sequential=True)
            engine.complete(engine.claim()[0])
            engine.complete(engine.claim()[0])
            engine.spawn(
                other, [{"task": "asleep", "sleeping": True, "key": "k"}], finalize={"task": "f"}
            )
            engine.row("wake", "asleep", "k")
            (finalize,) = engine.claim()
            _exchange(engine, _completed([finalize]), want=5, held=[1, 2])
            _exchange(engine, _completed([finalize]), want=5)
            failed, released, again = (engine.start(max_attempts=3) for _ in range(3))
            engine.finish(
                outcome_of(failed, "failed"),
                outcome_of(released, "released"),
                outcome_of(again, "again"),
            )
            engine.value("retry_finished", other.id)
            for id_ in (failed.id, released.id, other.id):
                engine.value("cancel", id_)
            overdue, dated = (
                engine.start("o", timeout="1 ms"),
                engine.start("d", deadline="2100-01-01"),
            )
            engine.run("update perdure.deadline set at = '2000-01-01'")
            engine.run(
                "insert into perdure.closing (kind, execution_id, generation, due_at)"
                " values ('recount', 1, 1, now())"
            )
            for function in ("sweep", "expire_running", "expire_deadlines", "close_batch"):
                engine.rows(function)
            engine.rows("outcomes", [1, 2])
            engine.rows("children", parent.id)
            engine.rows("tree", parent.id)
            engine.rows("attempts", overdue.id)
            engine.get(dated.id)
