"""Shards of worker processes that come, leave, die and freeze."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fix_machines import Program, await_that
from fix_shards import Shards

Start = Callable[..., Program]

_SCRIPT = Path(__file__).parents[1] / "worker" / "worker_app.py"
_TTL = 2.0


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts worker processes of the queue `q`."""
    started: list[Program] = []

    def start(dsn: str, *arguments: str) -> Program:
        program = Program(_SCRIPT, "queues=q", *arguments, names={"DATABASE_URL": dsn})
        started.append(program)
        return program

    yield start
    for program in started:
        program.close()


@pytest.fixture
def shards(shards: Shards) -> Shards:
    """With the graces of every installation, but for that after a start of the server."""
    shards.engine.run("update perdure.config set worker_grace = default, restart_grace = '0'")
    return shards


def owners(shards: Shards) -> set[int | None]:
    """Machine ids; None where a shard is nobody's."""
    rows = shards.engine.query("select distinct machine_id from perdure.shards where queue = 'q'")
    return {row["machine_id"] for row in rows}


def nap(shards: Shards, seconds: float, key: str, **options: Any) -> int:
    return int(shards.one(key, task="nap", input=seconds, **options))


def statuses(shards: Shards) -> set[str]:
    return {row["status"] for row in shards.engine.query("select status from perdure.executions")}


def overlaps(shards: Shards) -> list[Any]:
    """Executions that began before an earlier one of their key had ended."""
    return shards.engine.query(
        """
        select l.id, e.shard_key
        from perdure.execution as e
        join perdure.finished as f on f.id = e.id
        join perdure.execution as l on l.shard_key = e.shard_key and l.id > e.id
        join perdure.finished as m on m.id = l.id
        where m.started_at < f.finished_at
        """
    )


def test_g12_what_is_keyed_is_done_in_turn_while_workers_join_leave_and_die(
    shards: Shards, start: Start, db: str
) -> None:
    shards.make(shards=16)
    ids: list[int] = []

    def are(machine_ids: set[int]) -> bool:
        """Whether the shards are theirs; meanwhile there is always enough to do."""
        if shards.engine.one("select count(*) from perdure.ready") < 50:
            ids.extend(nap(shards, 0.02, f"k {n}") for n in range(24))
        return owners(shards) == machine_ids

    leaver = start(db, "concurrency=3")
    await_that(lambda: are({1}))
    victim = start(db, "concurrency=3")
    await_that(lambda: are({1, 2}))
    joiner = start(db, "concurrency=3")
    await_that(lambda: are({1, 2, 3}))
    leaver.send(signal.SIGTERM)
    await_that(lambda: are({2, 3}))
    assert leaver.join() == 0
    victim.skip()
    await_that(lambda: are({2, 3}) and victim.expect("napping"))
    victim.send(signal.SIGKILL)
    await_that(lambda: are({3}))
    await_that(lambda: statuses(shards) == {"completed"})
    assert set(shards.engine.statuses(ids)) == {"completed"}
    assert overlaps(shards) == []
    by = shards.engine.query("select distinct worker_id from perdure.finished")
    assert len(by) == 3
    joiner.send(signal.SIGTERM)
    assert joiner.join() == 0
    assert owners(shards) == {None}


@pytest.mark.parametrize("swept", ["by a worker", "by sweep() alone"])
@pytest.mark.parametrize("mode", ["session", "lease"])
def test_g13_the_shards_of_a_frozen_process_are_taken_over(
    shards: Shards, start: Start, db: str, request: pytest.FixtureRequest, mode: str, swept: str
) -> None:
    """With `sweep() alone` nobody resident sweeps, and in lease mode all goes through a pooler."""
    shards.make()
    dsn = db if mode == "session" else request.getfixturevalue("pooler").dsn(db)
    is_resident = swept == "by a worker"
    options = (f"ttl={_TTL:g}", f"sweeper={'yes' if is_resident else 'no'}")
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as by_hand:

        def is_so(asked: Callable[[], bool]) -> bool:
            if not is_resident:
                by_hand.execute("select perdure.sweep('q')")
            return asked()

        frozen = start(dsn, *options)
        await_that(lambda: is_so(lambda: owners(shards) == {1}))
        other = start(dsn, *options)
        await_that(lambda: is_so(lambda: owners(shards) == {1, 2}))
        modes = shards.engine.query("select distinct mode from perdure.workers")
        assert modes == [{"mode": mode}]
        keys = {number: key for key in map(str, range(100)) for number in [shards.shard_of(key)]}
        mine = min(
            row["number"]
            for row in shards.engine.query("select number from perdure.shards where machine_id = 1")
        )
        begun = nap(shards, 0.5, keys[mine], timeout=60)
        frozen.expect("napping")
        frozen.send(signal.SIGSTOP)
        frozen_at = time.monotonic()
        await_that(lambda: is_so(lambda: owners(shards) == {2}))
        # a resident sweeper that is frozen is replaced after the 3 s of its own lease, at most
        extra = 3 if is_resident and mode == "lease" else 0
        assert time.monotonic() - frozen_at < _TTL + 1 + extra
        later = [nap(shards, 0, key) for key in keys.values()]
        await_that(lambda: is_so(lambda: statuses(shards) == {"completed"}))
        assert shards.engine.get(begun)["crashes"] == 1
        who = "select distinct worker_id from perdure.finished where id = any(%s)"
        (rescuer,) = shards.engine.query(who, [begun, *later])
        frozen.send(signal.SIGCONT)
        # it is told that it was given up, and comes back as another incarnation
        await_that(lambda: is_so(lambda: owners(shards) == {1, 2}))
        assert shards.engine.query(who, [begun, *later]) == [rescuer]
        again = [nap(shards, 0, key) for key in keys.values()]
        await_that(lambda: is_so(lambda: statuses(shards) == {"completed"}))
        assert len(shards.engine.query(who, again)) == 2
        assert overlaps(shards) == []
        for program in (frozen, other):
            program.send(signal.SIGTERM)
            assert program.join() == 0
