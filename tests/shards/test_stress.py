"""Workers, deaths, cancels, retries and rebalancing at once: one of a key at a time, in order."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg
import pytest

from fix_engine import Lease, outcome_of
from fix_sessions import Session, Sessions, done
from fix_shards import Shards

_SECONDS = 4.0
_KEYS = 12


class Play:
    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.until = time.monotonic() + _SECONDS
        self.is_draining = False
        self.bodies: dict[str, int] = {}
        self.lock = threading.Lock()
        self.overlaps: list[str] = []

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until


@pytest.mark.parametrize("on_retry", ["hold", "skip"])
@pytest.mark.parametrize("seed", [1, 2])
def test_one_of_a_key_at_a_time_by_id(
    shards: Shards, sessions: Sessions, on_retry: str, seed: int
) -> None:
    shards.make(shards=6, on_retry=on_retry)
    play = Play(sessions)
    players: list[tuple[Any, Any]] = [
        *((_work, 0.0), (_work, 0.03), (_work, 0.03)),
        *((_produce, 0), (_produce, 1), (_sweep, None), (_operate, None), (_watch, None)),
    ]
    calls = []
    for number, (player, given) in enumerate(players):
        session = sessions.open()
        session.run("set deadlock_timeout = '20ms'")
        chance = random.Random(1000 * seed + number)
        calls.append(session.later(player, session, play, chance, given))
    for call in calls:
        done(call)
    _drain(shards, play)
    assert play.overlaps == []
    assert shards.turns() == shards.held() == []
    if on_retry == "hold":
        _check_order(shards)


def _check_order(shards: Shards) -> None:
    """Each producer has keys of its own, so their ids rise in the order of the commits."""
    passed = shards.engine.query(
        """
        select e.id, p.id as before
        from perdure.execution as e
        join perdure.finished as f on f.id = e.id and f.status = 'completed'
        join perdure.execution as p on p.shard_key = e.shard_key and p.id < e.id
        join perdure.finished as g on g.id = p.id and g.status = 'completed'
        where g.finished_at > f.started_at and e.task = 'plain' and p.task = 'plain'
        """
    )
    assert passed == []
    done_ = "select count(*) from perdure.finished where status = 'completed'"
    assert shards.engine.one(done_) > 50


def _work(session: Session, play: Play, chance: random.Random, dies: float) -> None:
    control = play.sessions.open()
    worker = str(control.value("register_worker", "w", ["q"], weight=chance.randint(1, 3)))
    control.one("select perdure._assign_shards('{q}')")
    outcomes: list[dict[str, Any]] = []
    while play.goes_on:
        if chance.random() < dies:
            session.lose_worker(control.conn)
            worker, outcomes = "", []
            control = play.sessions.open()
            worker = str(control.value("register_worker", "w", ["q"]))
        try:
            row = session.row("exchange", worker, outcomes or None, want=chance.randint(1, 6))
        except psycopg.Error as error:
            if error.sqlstate != "QD007":
                raise
            worker, outcomes = str(control.value("register_worker", "w", ["q"])), []
            continue
        outcomes = [_outcome(Lease(*fields), play, chance) for fields in row["claimed"] or []]


def _outcome(lease: Lease, play: Play, chance: random.Random) -> dict[str, Any]:
    kinds = ["completed"] * 8 + ["failed", "again", "released", "spawned"]
    outcome = "completed" if play.is_draining else chance.choice(kinds)
    fields: dict[str, Any] = {}
    if outcome == "spawned":
        fields = {"children": [{"task": "child", "queue": "q"}] * chance.randint(0, 2)}
    elif outcome != "completed":
        fields = {"delay": chance.choice([0, 0.05])}
    return outcome_of(lease, outcome, **fields)


def _produce(session: Session, play: Play, chance: random.Random, who: int) -> None:
    while play.goes_on:
        if session.one("select count(*) from perdure.ready") < 150:
            key = f"{who} {chance.choice([0, 0, 0, *range(_KEYS)])}"
            item = {"queue": "q", "task": "plain", "shard_key": key, "max_attempts": 5}
            if chance.random() < 0.1:
                item |= {"task": "later", "delay": 0.1}
            if chance.random() < 0.1:
                item |= {"task": "dated", "deadline": 0.2}
            session.rows("enqueue_many", [item] * chance.randint(1, 5))
            session.rows("enqueue_many", [{"queue": "q", "task": "common"}])
        time.sleep(0.002)


def _sweep(session: Session, play: Play, chance: random.Random, _: None) -> None:
    while play.goes_on:
        session.rows("sweep", max=chance.choice([20, 1000]))
        if chance.random() < 0.1:
            session.value("set_worker_health", chance.randint(1, 3), healthy=chance.random() < 0.6)


def _operate(session: Session, play: Play, chance: random.Random, _: None) -> None:
    while play.goes_on:
        last = session.one("select coalesce(max(id), 1) from perdure.execution")
        id_ = max(1, last - chance.randint(0, 100))
        try:
            if chance.random() < 0.5:
                with session.conn.transaction(force_rollback=chance.random() < 0.3):
                    session.value("cancel", id_)
                    time.sleep(chance.choice([0, 0.005]))
            else:
                task = session.one("select task from perdure.execution where id = %s", id_)
                if task != "plain":
                    session.value("retry_finished", id_, detach=True)
        except (psycopg.Error, ValueError) as error:
            known = {"QD001", "QD003", "QD005", "QD006", "QD012"}
            if isinstance(error, psycopg.Error) and error.sqlstate not in known:
                raise
        time.sleep(0.003)


def _watch(session: Session, play: Play, chance: random.Random, _: None) -> None:
    twice = """
      select e.shard_key from perdure.running as r join perdure.execution as e on e.id = r.id
      where e.shard_key is not null group by e.queue, e.shard_key having count(*) > 1
    """
    while play.goes_on:
        play.overlaps += [row["shard_key"] for row in session.query(twice)]
        play.overlaps += [row["invariant"] for row in session.rows("fsck") if "shard" in str(row)]


def _drain(shards: Shards, play: Play) -> None:
    play.is_draining = True
    engine = shards.engine
    engine.query("select perdure.unregister_worker(w.incarnation) from perdure.worker as w")
    member = shards.join()
    outcomes: list[dict[str, Any]] = []
    chance = random.Random(0)
    end = time.monotonic() + 60
    live = (
        "select from perdure.execution as e"
        " where not exists (select from perdure.finished as f where f.id = e.id)"
    )
    while engine.one(f"select exists ({live}) or exists (select from perdure.closing)"):
        engine.rows("sweep")
        row = member.exchange(outcomes or None, want=50)
        outcomes = [_outcome(Lease(*fields), play, chance) for fields in row["claimed"] or []]
        assert time.monotonic() < end, engine.query(
            "select status, task, count(*) from perdure.executions group by 1, 2"
        )
