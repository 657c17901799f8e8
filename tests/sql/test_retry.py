"""Retries, timeouts, deadlines and the crash budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Lease

HOUR = timedelta(hours=1)


def delays(engine: Engine, id: int) -> Iterator[float]:  # noqa: A002
    """Fail attempt after attempt; seconds from each failure to the next start."""
    while True:
        now = engine.stop_clock()
        engine.fail(engine.claim_one(id))
        if engine.room(id) == "finished":
            return
        start: datetime = engine.get(id)["start_at"]
        yield (start - now).total_seconds()
        engine.advance((start - now).total_seconds())


# Back-off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retry_multiplier": 2}, [1, 2, 4, 8, 16]),
        ({"retry_multiplier": 1}, [1, 1, 1, 1, 1]),
        ({"retry_multiplier": 0.5}, [1, 0.5, 0.25, 0.125, 0.063]),
        ({"retry_backoff": "linear"}, [1, 2, 3, 4, 5]),
        ({"retry_max_delay": timedelta(seconds=5)}, [1, 2, 4, 5, 5]),
        ({"retry_backoff": "linear", "retry_max_delay": timedelta(seconds=3)}, [1, 2, 3, 3, 3]),
        ({"retry_delay": timedelta(0)}, [0, 0, 0, 0, 0]),
        (
            {"retry_delay": timedelta(milliseconds=1), "retry_multiplier": 1.5},
            [0.001, 0.002, 0.002, 0.003, 0.005],
        ),
    ],
)
def test_the_delay_grows_as_the_policy_says(
    engine: Engine, options: dict[str, Any], expected: list[float]
) -> None:
    id = engine.enqueue(max_attempts=6, retry_jitter=0.0, **options)  # noqa: A001
    assert list(delays(engine, id)) == expected


def test_the_defaults_double_from_one_second_up_to_an_hour(engine: Engine) -> None:
    id = engine.enqueue(max_attempts=16, retry_jitter=0.0)  # noqa: A001
    assert list(delays(engine, id)) == [min(2**n, 3600) for n in range(15)]


def test_jitter_spreads_within_its_bounds(engine: Engine) -> None:
    rows = engine.query(
        "select perdure._retry_delay_ms(3, 1000, 2, 3600000, 0.1, false) as ms"
        " from generate_series(1, 2000)"
    )
    values = [row["ms"] for row in rows]
    assert min(values) >= 3600
    assert max(values) <= 4400
    assert len(set(values)) > 100, "it does spread"


def test_a_delay_is_whole_milliseconds_for_any_policy(engine: Engine) -> None:
    assert not engine.query(
        """
        select *
        from generate_series(1, 1000, 37) as retry (n)
        cross join unnest(array[0, 1, 7, 1000, 86400000]) as base (ms)
        cross join unnest(array[0.1, 0.3, 1, 1.5, 100]::double precision[]) as multiplier (m)
        cross join unnest(array[true, false]) as linear (is_linear)
        cross join lateral perdure._retry_delay_ms(
          retry.n, base.ms, multiplier.m, 86400000, 0, linear.is_linear
        ) as delay (ms)
        where delay.ms is null or delay.ms not between 0 and 86400000
        """
    )


def test_a_delay_given_with_the_failure_goes_before_the_policy(engine: Engine) -> None:
    lease = engine.start(max_attempts=3)
    now = engine.stop_clock()
    engine.report(lease, "failed", delay=77.5)
    assert engine.get(lease.id)["start_at"] - now == timedelta(seconds=77.5)
    engine.advance(78)
    engine.report(engine.claim_one(lease.id), "failed", delay=0)
    assert engine.claim_one(lease.id).attempt == 3


# Attempts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_max_attempts_counts_runs_the_first_included(engine: Engine, runs: int) -> None:
    id = engine.enqueue(max_attempts=runs, retry_delay=timedelta(0))  # noqa: A001
    for n in range(1, runs + 1):
        lease = engine.claim_one(id)
        assert lease.attempt == n
        engine.fail(lease, f"try {n}")
    row = engine.get(id)
    assert (row["status"], row["attempt"], row["error"]["message"]) == (
        "failed",
        runs,
        f"try {runs}",
    )
    history = engine.rows("attempts", id)
    assert [one["error"]["message"] for one in history] == [f"try {n}" for n in range(1, runs)]


def test_an_error_that_is_not_retryable_ends_at_once(engine: Engine) -> None:
    lease = engine.start(max_attempts=5)
    engine.fail(lease, retryable=False)
    assert (engine.status(lease.id), engine.get(lease.id)["attempt"]) == ("failed", 1)


def test_a_body_that_cancels_itself_is_never_retried(engine: Engine) -> None:
    lease = engine.start(max_attempts=5)
    engine.report(lease, "cancelled")
    assert engine.status(lease.id) == "cancelled"


def test_the_next_attempt_is_told_the_error_of_the_one_before(engine: Engine) -> None:
    lease = engine.start(max_attempts=3, retry_delay=timedelta(0))
    assert "error" not in lease.extra
    engine.fail(lease, "first")
    second = engine.claim_one(lease.id)
    assert second.extra["error"]["message"] == "first"
    engine.fail(second, "second")
    assert engine.claim_one(lease.id).extra["error"]["message"] == "second"


def test_a_completed_attempt_leaves_no_history(engine: Engine) -> None:
    lease = engine.start()
    engine.complete(lease)
    assert engine.rows("attempts", lease.id) == []


def test_a_released_lease_uses_no_attempt_and_keeps_its_place(engine: Engine) -> None:
    lease = engine.start()
    engine.enqueue()
    assert engine.report(lease, "released").result == "recorded"
    again = engine.claim_one(lease.id)
    assert (again.attempt, again.token > lease.token) == (1, True)
    assert engine.rows("attempts", lease.id) == []


# Timeouts -----------------------------------------------------------------------------------------


def test_an_attempt_that_is_overdue_is_taken_away_and_counts_as_timed_out(
    engine: Engine,
) -> None:
    lease = engine.start(timeout=timedelta(seconds=10), max_attempts=2, retry_delay=timedelta(0))
    engine.stop_clock()
    engine.advance(9)
    assert engine.value("expire_running") == 0
    engine.advance(1.1)
    assert engine.value("expire_running") == 1
    (attempt,) = engine.rows("attempts", lease.id)
    assert (attempt["status"], attempt["error"]["type"]) == ("timed_out", "timed_out")
    assert engine.report(lease, "completed").result == "lost"
    second = engine.claim_one(lease.id)
    assert (second.attempt, second.timeout_ms) == (2, 10_000)
    engine.advance(10.1)
    engine.value("expire_running")
    assert engine.status(lease.id) == "timed_out"


def test_each_attempt_has_the_whole_timeout(engine: Engine) -> None:
    engine.stop_clock()
    lease = engine.start(timeout=timedelta(seconds=10), max_attempts=2, retry_delay=timedelta(0))
    engine.advance(9)
    engine.fail(lease)
    engine.claim_one(lease.id)
    engine.advance(9)
    assert engine.value("expire_running") == 0


def test_a_timeout_reported_by_the_worker_is_the_same(engine: Engine) -> None:
    lease = engine.start(max_attempts=2, retry_delay=timedelta(0))
    engine.report(lease, "timed_out")
    engine.report(engine.claim_one(lease.id), "timed_out")
    row = engine.get(lease.id)
    assert (row["status"], row["error"]["type"]) == ("timed_out", "timed_out")


def test_a_sleeper_times_out_from_its_start_and_one_without_a_timeout_never(
    engine: Engine,
) -> None:
    brief = engine.enqueue("nap", sleeping=True, key="brief", timeout=HOUR, delay=HOUR)
    patient = engine.enqueue("nap", sleeping=True, key="patient")
    engine.advance(7199)
    assert engine.value("expire_deadlines") == 0
    engine.advance(2)
    assert engine.value("expire_deadlines") == 1
    row = engine.get(brief)
    assert (row["status"], row["error"]["type"]) == ("timed_out", "timed_out")
    engine.advance(3650 * 86400)
    engine.rows("sweep")
    assert engine.status(patient) == "sleeping"
    assert engine.enqueue("nap", sleeping=True, key="brief") > patient, "its key is free again"


# Deadlines ----------------------------------------------------------------------------------------


def with_deadline(engine: Engine) -> dict[str, int]:
    """Executions in every live status, their deadline an hour ahead."""
    deadline = engine.stop_clock() + HOUR
    ids = {
        "ready": engine.enqueue("ready", deadline=deadline),
        "scheduled": engine.enqueue("scheduled", deadline=deadline, delay=HOUR / 2),
        "running": engine.start("running", deadline=deadline, timeout=2 * HOUR).id,
        "sleeping": engine.enqueue("nap", deadline=deadline, sleeping=True, key="k"),
    }
    for status in ("waiting_for_children", "waiting_for_finalize"):
        parent = engine.start(status, deadline=deadline)
        ids[status] = parent.id
        if status == "waiting_for_children":
            (child,) = engine.spawn(parent, ["branch"])
            branch = engine.claim_one(child)
            engine.spawn(branch, ["leaf", {"task": "nap", "sleeping": True, "key": "leaf"}])
        else:
            engine.spawn(parent, [], finalize={"task": "finalize"})
    return ids


def test_a_passed_deadline_ends_every_live_status_with_its_subtree(engine: Engine) -> None:
    ids = with_deadline(engine)
    engine.advance(3600)
    while engine.value("expire_deadlines"):
        pass
    engine.close_all()
    for status, id in ids.items():  # noqa: A001
        row = engine.get(id)
        assert (row["status"], row["error"]["type"]) == ("timed_out", "deadline_exceeded"), status
    left = engine.query("select id, task, status from perdure.executions where finished_at is null")
    assert left == []
    tree = {row["task"]: row["status"] for row in engine.rows("tree", ids["waiting_for_children"])}
    assert set(tree.values()) <= {"timed_out", "cancelled"}
    assert engine.query("select * from perdure.deadline") == []
    assert engine.query("select * from perdure.key") == []


def test_a_deadline_that_has_not_passed_ends_nothing(engine: Engine) -> None:
    with_deadline(engine)
    engine.advance(3599)
    before = engine.dump()
    assert engine.value("expire_deadlines") == 0
    assert engine.dump() == before


def test_an_execution_that_ended_in_time_has_no_deadline_left(engine: Engine) -> None:
    lease = engine.start(deadline=engine.stop_clock() + HOUR)
    engine.complete(lease)
    engine.advance(3601)
    assert engine.value("expire_deadlines") == 0
    assert engine.status(lease.id) == "completed"


def test_no_retry_outlives_the_deadline(engine: Engine) -> None:
    lease = engine.start(
        deadline=engine.stop_clock() + HOUR, max_attempts=9, retry_delay=timedelta(hours=2)
    )
    engine.fail(lease)
    engine.advance(3601)
    engine.rows("sweep")
    assert engine.status(lease.id) == "timed_out"


# Crashes ------------------------------------------------------------------------------------------


@pytest.fixture
def crash(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> Callable[[int], Lease]:
    """Has a worker claim an execution and die; its lease."""
    engine.run("update perdure.config set restart_grace = '0'")

    def crash(id: int) -> Lease:  # noqa: A002
        other = Engine(connect())
        lease = other.claim_one(id)
        engine.lose_worker(other.conn)
        engine.value("expire_running")
        engine.advance(2)
        assert engine.value("expire_running") == 1
        return lease

    return crash


def test_three_crashes_are_forgiven_and_the_fourth_ends_it(
    engine: Engine, crash: Callable[[int], Lease]
) -> None:
    id = engine.enqueue("poison", max_attempts=1)  # noqa: A001
    for n in range(1, 4):
        assert crash(id).attempt == 1, "a crash uses no attempt"
        assert (engine.status(id), engine.get(id)["crashes"]) == ("ready", n)
    crash(id)
    row = engine.get(id)
    assert (row["status"], row["error"]["type"], row["crashes"]) == ("failed", "crashed", 4)
    assert [one["status"] for one in engine.rows("attempts", id)] == ["crashed"] * 3


def test_a_crash_budget_of_none_forgives_nothing(
    engine: Engine, crash: Callable[[int], Lease]
) -> None:
    id = engine.enqueue(max_crashes=0, max_attempts=5)  # noqa: A001
    crash(id)
    assert (engine.status(id), engine.get(id)["error"]["type"]) == ("failed", "crashed")


def test_an_iteration_that_succeeded_has_the_crash_budget_anew(
    engine: Engine, crash: Callable[[int], Lease]
) -> None:
    loop = engine.enqueue("loop", max_crashes=1)
    crash(loop)
    engine.report(engine.claim_one(loop), "again")
    crash(loop)
    assert (engine.status(loop), engine.get(loop)["crashes"]) == ("ready", 1)
    lease = engine.claim_one(loop)
    assert (lease.extra["iteration"], lease.extra["error"]["type"]) == (1, "crashed")


def test_a_dead_worker_s_report_is_refused(engine: Engine, crash: Callable[[int], Lease]) -> None:
    lease = crash(engine.enqueue())
    assert engine.report(lease, "completed", output="late").code == "QD008"
    assert engine.status(lease.id) == "ready"


def test_a_crashed_child_tells_its_parent_in_the_end(
    engine: Engine, crash: Callable[[int], Lease]
) -> None:
    parent = engine.start("parent")
    (child,) = engine.spawn(parent, [{"task": "child", "max_crashes": 0}])
    crash(child)
    assert engine.status(parent.id) == "completed"


def test_a_worker_that_comes_back_in_time_keeps_its_work(
    engine: Engine, connect: Callable[..., psycopg.Connection[Any]]
) -> None:
    engine.run("update perdure.config set restart_grace = '0'")
    other = Engine(connect())
    lease = other.start()
    unknown = other.start("reply_was_lost")
    engine.lose_worker(other.conn)
    engine.value("expire_running")
    back = Engine(connect())
    back.row("ping_worker", other.worker)
    held = back.rows("resume_worker", other.worker, [lease.id], 7)
    assert [(row["id"], row["token"]) for row in held] == [(lease.id, lease.token)]
    engine.advance(10)
    assert engine.value("expire_running") == 0
    assert engine.status(unknown.id) == "ready", "a lease that it does not know goes back unharmed"
    assert engine.get(unknown.id)["crashes"] == 0
    assert back.report(lease, "completed", worker=other.worker).result == "recorded"
    with pytest.raises(psycopg.Error) as raised:
        back.rows("exchange", other.worker, Jsonb(None), call=6)
    assert raised.value.sqlstate == "QD009"
