"""Everything at once: workers, sweeps, cancels, wakes, redrives and deaths, and nothing is lost."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Session, Sessions, done

# What an operator may be told about an execution that moved on meanwhile.
_REFUSALS = {"QD002", "QD003", "QD004", "QD005", "QD006", "QD012"}
_SECONDS = 4.0


class Play:
    """What the players share."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.until = time.monotonic() + _SECONDS
        self.is_draining = False
        self.completed: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.keys = itertools.count()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.until


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_ends_once_whatever_happens_at_once(sessions: Sessions, seed: int) -> None:
    play = Play(seed)
    control = sessions.open()
    control.run("update perdure.config set worker_grace = '0', restart_grace = '0'")
    players = [
        *((_work, False), (_work, False), (_work, True)),
        *((_sweep, None), (_sweep, None), (_operate, None), (_operate, None), (_produce, None)),
    ]
    calls = []
    for number, (player, given) in enumerate(players):
        session = sessions.open()
        session.run("set deadlock_timeout = '20ms'")
        chance = random.Random(1000 * seed + number)
        calls.append(session.later(player, session, play, chance, given, sessions))
    for call in calls:
        done(call)
    _drain(control, play)
    _check(control, play)


def _work(
    session: Session, play: Play, chance: random.Random, dies: bool, sessions: Sessions
) -> None:
    control = sessions.open()
    worker = control.worker
    outcomes: list[dict[str, Any]] = []
    while play.goes_on:
        if dies and chance.random() < 0.03:
            session.lose_worker(control.conn)
            control = sessions.open()
            worker = control.worker
        try:
            outcomes = _exchange(session, play, chance, worker, outcomes)
        except psycopg.Error as error:
            if error.sqlstate != "QD007":
                raise
            worker = (control := sessions.open()).worker
            outcomes = []


def _exchange(
    session: Engine, play: Play, chance: random.Random, worker: str, outcomes: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    chance.shuffle(outcomes)
    sent = outcomes[: chance.randint(0, 12)]
    row = session.row("exchange", worker, sent or None, want=chance.randint(0, 8))
    refused = {
        (one["id"], one["token"]) for one in row["results"] or [] if one["result"] != "recorded"
    }
    with play.lock:
        play.completed.update(
            one["id"]
            for one in sent
            if one["outcome"] == "completed" and (one["id"], one["token"]) not in refused
        )
    claimed = [Lease(*fields) for fields in row["claimed"] or []]
    return outcomes[len(sent) :] + [_outcome(lease, play, chance) for lease in claimed]


def _outcome(lease: Lease, play: Play, chance: random.Random) -> dict[str, Any]:
    depth = lease.input.get("depth", 0) if isinstance(lease.input, dict) else 0
    if lease.task == "node" and depth < 3 and not play.is_draining and chance.random() < 0.9:
        return outcome_of(
            lease,
            "spawned",
            output="own",
            children=[_child(play, chance, depth + 1) for _ in range(chance.randint(0, 4))],
            finalize={"task": "leaf"} if chance.random() < 0.4 else None,
            sequential=chance.random() < 0.2,
            fail_fast=chance.random() < 0.3,
        )
    kinds = ["completed"] * 12 + ["failed", "timed_out", "cancelled", "again", "released"]
    outcome = "completed" if play.is_draining else chance.choice(kinds)
    return outcome_of(lease, outcome, **({} if outcome == "completed" else {"delay": 0}))


def _child(play: Play, chance: random.Random, depth: int) -> dict[str, Any]:
    match chance.choice(["node", "node", "leaf", "leaf", "leaf", "asleep", "keyed", "dated"]):
        case "node":
            return {"task": "node", "input": {"depth": depth}, "max_attempts": 2}
        case "asleep":
            return {"task": "asleep", "sleeping": True, "key": f"sleep {next(play.keys)}"}
        case "keyed":
            # Spawned keys are taken parent by parent: crossing sets of them may deadlock.
            number = chance.randint(0, 9) if depth == 0 else next(play.keys)
            return {"task": "leaf", "key": f"key {number}"}
        case "dated":
            return {"task": "node", "input": {"depth": depth}, "deadline": chance.random()}
    return {"task": "leaf", "max_attempts": 3, "timeout": chance.choice([0.01, 300])}


def _produce(session: Session, play: Play, chance: random.Random, *_: Any) -> None:
    while play.goes_on:
        if session.one("select count(*) from perdure.ready") < 300:
            items = [_child(play, chance, 0) for _ in range(chance.randint(1, 10))]
            session.rows("enqueue_many", items)
        time.sleep(0.005)


def _sweep(session: Session, play: Play, chance: random.Random, *_: Any) -> None:
    while play.goes_on:
        session.rows("sweep", max=chance.choice([3, 20, 1000]))


def _operate(session: Session, play: Play, chance: random.Random, *_: Any) -> None:
    while play.goes_on:
        id_ = chance.randint(1, session.one("select coalesce(max(id), 1) from perdure.execution"))
        try:
            match chance.choice(["cancel", "retry", "wake", "wake", "expire"]):
                case "cancel":
                    session.rows("cancel", id_) if chance.random() < 0.5 else None
                case "retry":
                    session.rows("retry_finished", id_, chance.random() < 0.3)
                case "wake":
                    number = chance.randint(0, max(1, next(play.keys)))
                    session.rows("wake", "asleep", f"sleep {number}")
                case "expire":
                    session.rows(
                        chance.choice(["expire_running", "expire_deadlines", "close_batch"])
                    )
        except psycopg.Error as error:
            if error.sqlstate not in _REFUSALS | {"QD001"}:
                raise


def _drain(control: Session, play: Play) -> None:
    """Let everything end: wake all sleepers, complete whatever runs."""
    play.is_draining = True
    control.query("select perdure.unregister_worker(w.incarnation) from perdure.worker as w")
    outcomes: list[dict[str, Any]] = []
    chance = random.Random(0)
    end = time.monotonic() + 60
    live = (
        "select from perdure.execution as e"
        " where not exists (select from perdure.finished as f where f.id = e.id)"
    )
    while control.one(f"select exists ({live}) or exists (select from perdure.closing)"):
        control.rows("sweep")
        control.query(
            "select perdure.wake(e.task, e.key) from perdure.waiting as w"
            " join perdure.execution as e on e.id = w.id where w.phase = 'sleep'"
        )
        outcomes = _exchange(control, play, chance, control.worker, outcomes)
        assert time.monotonic() < end, control.query(
            "select status, task, count(*) from perdure.executions group by 1, 2"
        )


def _check(control: Session, play: Play) -> None:
    assert control.fsck() == []
    ends = """
      select e.id, (
        select count(*) from perdure.finished as f where f.id = e.id and f.status = 'completed'
      ) + (
        select count(*) from perdure.attempt as a
        where a.execution_id = e.id and a.status = 'completed'
      ) as times
      from perdure.execution as e
      where e.task = 'leaf'
    """
    found = {row["id"]: row["times"] for row in control.query(ends)}
    assert sum(found.values()) > 10
    told = {id_: play.completed[id_] for id_ in found}
    assert {id_: n for id_, n in found.items() if n != told[id_]} == {}
