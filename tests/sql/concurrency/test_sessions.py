"""Two sessions at a time, each interleaving held open until the other one waits."""

from __future__ import annotations

import pytest

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Session, Sessions, done


def test_two_claimers_never_get_the_same_execution(engine: Engine, sessions: Sessions) -> None:
    engine.rows("enqueue_many", [{"task": "t"}] * 300)
    claimers = [sessions.open() for _ in range(3)]
    calls = [claimer.later(_claim_all, claimer) for claimer in claimers]
    got = [id_ for call in calls for id_ in done(call)]
    assert len(got) == len(set(got)) == 300


def _claim_all(claimer: Session) -> list[int]:
    got: list[int] = []
    while leases := claimer.claim(7):
        got += [lease.id for lease in leases]
    return got


def test_a_claim_steps_over_what_another_one_is_taking(engine: Engine, sessions: Sessions) -> None:
    first, second = engine.enqueue(), engine.enqueue()
    other = sessions.open()
    assert other.worker
    with engine.conn.transaction():
        assert [lease.id for lease in engine.claim()] == [first]
        assert [lease.id for lease in other.claim(5)] == [second], "it did not wait"


def test_a_claim_that_rolls_back_gives_everything_back(engine: Engine, sessions: Sessions) -> None:
    id_ = engine.enqueue()
    other = sessions.open()
    with other.conn.transaction(force_rollback=True):
        (lost,) = other.claim()
    (lease,) = engine.claim()
    assert (lease.id, lease.token) == (id_, lost.token)


@pytest.mark.parametrize("fails", [False, True])
def test_the_last_two_children_finish_at_once(
    engine: Engine, sessions: Sessions, fails: bool
) -> None:
    parent = engine.start()
    engine.spawn(parent, ["child", "child"], finalize={"task": "finalize"}, fail_fast=fails)
    one, other = sessions.open(), sessions.open()
    assert one.worker
    assert other.worker
    (mine,), (theirs,) = one.claim(), other.claim()
    with one.conn.transaction():
        one.report(mine, "failed" if fails else "completed")
        second = other.later(other.report, theirs, "completed")
        sessions.await_waiting(other, second)
    assert done(second).result == "recorded"
    assert engine.status(parent.id) == "waiting_for_finalize"
    assert [lease.task for lease in engine.claim(5)] == ["finalize"]
    engine.close_all()


def test_two_last_children_of_nested_parents_finish_at_once(
    engine: Engine, sessions: Sessions
) -> None:
    for _ in range(5):
        root = engine.start()
        engine.spawn(root, ["middle"] * 2)
        for middle in engine.claim(2):
            engine.spawn(middle, ["leaf"])
        pair = [sessions.open() for _ in range(2)]
        leases = [(session.worker, session.claim())[1][0] for session in pair]
        calls = [
            session.later(session.report, lease, "completed")
            for session, lease in zip(pair, leases, strict=True)
        ]
        assert [done(call).result for call in calls] == ["recorded"] * 2
        assert engine.status(root.id) == "completed"


def test_a_stale_report_after_expiry_is_told_so_and_changes_nothing(engine: Engine) -> None:
    lease = engine.start(timeout="1 ms", max_attempts=2, retry_delay="0")
    assert engine.row("sweep")["recovered"] == 1
    before = engine.dump()
    result = engine.report(lease, "completed")
    assert (result.result, result.code) == ("lost", "QD008")
    assert engine.dump() == before
    (again,) = engine.claim()
    assert engine.report(lease, "failed").result == "lost"
    assert engine.status(lease.id) == "running"
    engine.complete(again)


@pytest.mark.parametrize("outcome", ["completed", "failed", "again", "released", "spawned"])
def test_a_report_that_comes_while_its_lease_expires_is_too_late(
    engine: Engine, sessions: Sessions, outcome: str
) -> None:
    lease = engine.start(timeout="1 ms", max_attempts=2)
    reporter = sessions.open()
    with engine.conn.transaction():
        assert engine.value("expire_running") == 1
        late = reporter.later(_report, reporter, engine.worker, lease, outcome)
        sessions.await_waiting(reporter, late)
    assert done(late) == "lost"
    assert engine.status(lease.id) == "ready"


def test_an_expiry_that_comes_while_a_report_is_under_way_passes_it_over(
    engine: Engine, sessions: Sessions
) -> None:
    lease = engine.start(timeout="1 ms")
    other = sessions.open()
    with engine.conn.transaction():
        engine.complete(lease)
        assert other.value("expire_running") == 0, "it did not wait"
    assert engine.status(lease.id) == "completed"


def _report(session: Session, worker: str, lease: Lease, outcome: str) -> str:
    return session.report(lease, outcome, worker=worker).result


def test_two_sweeps_at_once_share_the_work(engine: Engine, sessions: Sessions) -> None:
    engine.rows("enqueue_many", [{"task": "overdue", "timeout": 0.001}] * 5)
    assert len(engine.claim(5)) == 5
    engine.rows("enqueue_many", [{"task": "dated", "deadline": "2100-01-01"}] * 5)
    engine.rows("enqueue_many", [{"task": "later", "delay": 3600}] * 5)
    engine.run("update perdure.scheduled set start_at = now()")
    engine.run("update perdure.deadline set at = now()")
    other = sessions.open()
    with engine.conn.transaction():
        first = engine.row("sweep")
        second = other.row("sweep")  # it waits for nobody
    assert (first["promoted"], first["recovered"], first["timed_out"]) == (5, 5, 5)
    assert (second["promoted"], second["recovered"], second["timed_out"]) == (0, 0, 0)


def test_an_exchange_passes_over_what_a_sweep_promotes(engine: Engine, sessions: Sessions) -> None:
    id_ = engine.enqueue(delay="1 hour")
    engine.run("update perdure.scheduled set start_at = now()")
    other = sessions.open()
    assert other.worker
    with engine.conn.transaction():
        assert engine.row("sweep")["promoted"] == 1
        assert other.claim() == []
    assert [lease.id for lease in other.claim()] == [id_]


@pytest.mark.parametrize("second", ["cancel", "wake", "expire_deadlines"])
def test_a_sleeper_ends_once(engine: Engine, sessions: Sessions, second: str) -> None:
    id_ = engine.enqueue("nap", sleeping=True, key="k", timeout="1 ms")
    other = sessions.open()
    with engine.conn.transaction():
        assert engine.row("wake", "nap", "k")["is_woken"]
        match second:
            case "cancel":
                call = other.later(other.value, "cancel", id_)
            case "wake":
                call = other.later(_is_woken, other)
            case _:
                other.value("expire_deadlines")
        if second != "expire_deadlines":
            sessions.await_waiting(other, call)
    if second != "expire_deadlines":
        assert done(call) in ("finished", False)
    engine.close_all()
    assert engine.status(id_) == "completed"


def _is_woken(session: Session) -> object:
    return session.row("wake", "nap", "k")["is_woken"]


def test_two_redrives_at_once_are_one(engine: Engine, sessions: Sessions) -> None:
    lease = engine.start()
    engine.complete(lease)
    other = sessions.open()
    with engine.conn.transaction():
        engine.value("retry_finished", lease.id)
        second = other.later(other.value, "retry_finished", lease.id)
        sessions.await_waiting(other, second)
    with pytest.raises(Exception, match="has not finished"):
        done(second)


def test_two_workers_that_start_at_once_define_the_same_tasks(
    engine: Engine, sessions: Sessions
) -> None:
    other = sessions.open()
    for turn in range(1, 4):
        tasks = [{"name": name, "max_attempts": turn} for name in ("a", "b", "c")]
        with engine.conn.transaction():
            assert engine.value("define_tasks", tasks) == 3
            second = other.later(other.value, "define_tasks", tasks[::-1])
            sessions.await_waiting(other, second)
        assert done(second) < 3, "it saw what the first one had written"
        assert engine.one("select count(*) from perdure.task where max_attempts = %s", turn) == 3


@pytest.mark.parametrize("outcome", ["completed", "failed", "spawned"])
def test_a_batch_that_waits_for_a_cancel_loses_none_of_its_mates(
    engine: Engine, sessions: Sessions, outcome: str
) -> None:
    leases = [engine.start(f"t {n}", max_attempts=2) for n in range(3)]
    reporter = sessions.open()
    with engine.conn.transaction():
        engine.value("cancel", leases[1].id)
        outcomes = [outcome_of(lease, outcome, children=[]) for lease in leases]
        late = reporter.later(reporter.finish, *outcomes, worker=engine.worker)
        sessions.await_waiting(reporter, late)
    assert [one.result for one in done(late)] == ["recorded", "cancelled", "recorded"]


def test_what_is_cancelled_under_a_report_is_lost_alone(engine: Engine, sessions: Sessions) -> None:
    leases = [engine.start() for _ in range(3)]
    canceller, reporter = sessions.open(), sessions.open()
    outcomes = [outcome_of(lease, "completed", output=lease.id) for lease in leases]
    with canceller.conn.transaction():
        assert canceller.value("cancel", leases[1].id) == "cancelled"
        report = reporter.later(reporter.finish, *outcomes, worker=engine.worker)
        sessions.await_waiting(reporter, report)
    assert [result.result for result in done(report)] == ["recorded", "cancelled", "recorded"]
    assert engine.statuses([lease.id for lease in leases]) == [
        "completed",
        "cancelled",
        "completed",
    ]
    assert engine.get(leases[2].id)["output"] == leases[2].id
