"""`sweep('mail')` and `sweep_for('mail')` keep a system right by themselves: nobody else sweeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from fix_due import DUE, Due, no_grace
from fix_engine import Engine
from fix_machines import Pooler
from fix_sessions import Sessions

Until = Callable[[Callable[[], Any]], None]


@pytest.mark.parametrize("due", DUE)
def test_g20_a_sweep_alone_does_what_is_due(
    engine: Engine, sessions: Sessions, until: Until, due: Due
) -> None:
    no_grace(engine)
    is_done = due(engine, sessions)
    assert not is_done()

    def sweep() -> bool:
        assert engine.row("sweep", "mail")["skipped"] is None
        return is_done()

    until(sweep)
    assert not engine.query(
        "select from perdure.leader where purpose = 'sweep' and mode <> 'oneshot'"
    )


def test_g20_sweeps_alone_do_everything_at_once(
    engine: Engine, sessions: Sessions, until: Until
) -> None:
    no_grace(engine)
    done = [due(engine, sessions) for due in DUE]

    def sweep() -> bool:
        engine.run("call perdure.sweep_for('mail', interval '1 s')")
        return all(is_done() for is_done in done)

    until(sweep)


def test_g20_through_a_pooler_too(
    engine: Engine, sessions: Sessions, until: Until, pooler: Pooler, db: str
) -> None:
    no_grace(engine)
    done = [due(engine, sessions) for due in DUE]
    with _pooled(pooler, db) as conn:
        by_hand = Engine(conn)

        def sweep() -> bool:
            assert by_hand.row("sweep", "mail")["skipped"] is None
            by_hand.run("call perdure.sweep_for('mail', interval '1 s')")
            return all(is_done() for is_done in done)

        until(sweep)


def test_g20_through_a_pooler_psql_alone_does_a_whole_life(
    engine: Engine, pooler: Pooler, db: str
) -> None:
    """Nothing is resident, and every connection is anybody's: workers live by leases."""
    no_grace(engine)
    with _pooled(pooler, db) as first, _pooled(pooler, db) as second:
        one, other = Engine(first), Engine(second)
        worker = one.value("register_worker", "one", mode="lease", ttl="5 s")
        id_ = one.enqueue("parent", max_attempts=2, retry_delay="1 s", retry_jitter=0.0)
        (lease,) = one.claim(worker=worker)
        one.report(lease, "failed", worker=worker, error={"type": "E", "message": "boom"})
        assert one.status(id_) == "ready"
        one.advance(1.1)
        assert other.row("sweep", "default")["promoted"] == 1
        one.value("ping_worker", worker)
        (lease,) = one.claim(worker=worker)
        one.advance(6)  # and it is heard of no more
        assert other.row("sweep", "default")["recovered"] == 1
        successor = other.value("register_worker", "other", mode="lease", ttl="1 hour")
        (again,) = other.claim(worker=successor)
        assert (again.id, again.attempt) == (id_, 2)
        with pytest.raises(psycopg.Error) as caught:
            one.report(lease, "completed", worker=worker)
        assert caught.value.sqlstate == "QD007"
        children = [{"task": "child"}] * 2
        other.report(again, "spawned", worker=successor, children=children)
        for child in other.claim(2, worker=successor):
            assert other.report(child, "completed", worker=successor).result == "recorded"
        assert one.status(id_) == "completed"
        other.value("unregister_worker", successor)
        assert one.query("select from perdure.workers") == []
        assert one.one("select perdure._locked_keys()") == []


def _pooled(pooler: Pooler, db: str) -> psycopg.Connection[Any]:
    return psycopg.connect(pooler.dsn(db), autocommit=True, prepare_threshold=None)


def test_what_a_sweep_of_everything_reports(engine: Engine, sessions: Sessions) -> None:
    no_grace(engine)
    for due in DUE:
        due(engine, sessions)
    engine.advance(60)
    row = engine.row("sweep")
    assert row["skipped"] is None
    counts = ("promoted", "recovered", "timed_out", "closed", "forgotten", "deleted")
    assert all(row[name] > 0 for name in counts), row
    while engine.row("sweep")["more"]:
        pass
    assert engine.row("sweep") == dict.fromkeys(row, 0) | {"more": False, "skipped": None}


def test_null_means_the_default(engine: Engine) -> None:
    engine.rows("enqueue_many", [{"task": "t", "delay": 1}] * 3)
    engine.advance(2)
    assert engine.row("sweep", None, None)["promoted"] == 3


@pytest.mark.parametrize("channel", ["", "a\nb", "c" * 256])
def test_a_channel_is_a_name(engine: Engine, channel: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        engine.row("sweep", channel)
    assert caught.value.sqlstate == "QD020"


# sweep_for


def test_sweep_for_commits_after_each_pass(
    engine: Engine, sessions: Sessions, until: Until
) -> None:
    runner = sessions.open()
    call = runner.later(
        runner.run, "call perdure.sweep_for('mail', interval '1 minute', every => '10 ms')"
    )
    for n in range(3):
        id_ = engine.enqueue(f"later {n}", delay="20 ms")
        until(partial(_is_ready, engine, id_))
    assert not call.done(), "what it did is seen while it runs"
    assert engine.one("select pg_cancel_backend(%s)", runner.pid)
    with pytest.raises(psycopg.errors.QueryCanceled):
        call.result(timeout=20)


def _is_ready(engine: Engine, id_: int) -> bool:
    return bool(engine.query("select from perdure.ready where id = %s", id_))


def test_sweep_for_ends_when_nothing_is_due(engine: Engine) -> None:
    engine.rows("enqueue_many", [{"task": "t", "delay": 1}] * 2500)
    engine.advance(2)
    engine.run("call perdure.sweep_for(null, interval '1 hour')")
    assert engine.one("select count(*) from perdure.ready") == 2500


def test_sweep_for_ends_when_its_time_is_up(engine: Engine) -> None:
    engine.rows("enqueue_many", [{"task": "t", "delay": 1}] * 2500)
    engine.advance(2)
    engine.run("call perdure.sweep_for(null, interval '0')")
    assert engine.one("select count(*) from perdure.ready") <= 1000, "one pass"
    before = engine.one("select clock_timestamp()")
    engine.run("call perdure.sweep_for(null, interval '300 ms', every => '40 ms')")
    assert engine.one("select count(*) from perdure.ready") == 2500
    took = engine.one("select clock_timestamp() - %s", before).total_seconds()
    assert took >= 0.3, "with every it goes on"


@pytest.mark.parametrize(
    "given", ["null, null", "null, interval '-1 s'", "null, interval '1 s', interval '0'"]
)
def test_sweep_for_refuses_what_is_no_duration(engine: Engine, given: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        engine.run(f"call perdure.sweep_for({given})")
    assert caught.value.sqlstate == "QD023"


def test_sweep_for_is_refused_inside_a_transaction(engine: Engine) -> None:
    with pytest.raises(psycopg.errors.InvalidTransactionTermination), engine.conn.transaction():
        engine.run("call perdure.sweep_for()")
