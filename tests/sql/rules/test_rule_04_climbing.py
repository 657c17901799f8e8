"""Rule 4: waiting rows are locked one at a time, in strictly descending id."""

from __future__ import annotations

import psycopg
import pytest

from fix_engine import Engine, Lease, outcome_of
from fix_sessions import Sessions, done


def test_parents_that_end_together_each_tell_their_common_parent(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["middle"] * 3)
    for middle in engine.claim(3):
        engine.spawn(middle, ["leaf"])
    engine.finish(*(outcome_of(leaf, "completed") for leaf in engine.claim(3)))
    assert engine.status(root.id) == "completed"


def test_a_chain_ends_in_one_climb(engine: Engine) -> None:
    lease = engine.start()
    chain = [lease.id]
    for _ in range(30):
        engine.spawn(lease, ["link"])
        (lease,) = engine.claim()
        chain.append(lease.id)
    engine.complete(lease)
    assert set(engine.statuses(chain)) == {"completed"}


def test_the_highest_parent_is_locked_first_and_a_lower_one_not_before(
    engine: Engine, sessions: Sessions
) -> None:
    low, high = _two_parents(engine)
    holder, finisher = sessions.open(), sessions.open()
    leases = engine.claim(2)
    with holder.conn.transaction():
        holder.query("select from perdure.waiting where id = %s for update", high)
        outcomes = [outcome_of(lease, "completed") for lease in leases]
        finished = finisher.later(finisher.finish, *outcomes, worker=engine.worker)
        sessions.await_waiting(finisher, finished)
        with engine.conn.transaction():  # raises if the finisher had it
            engine.query("select from perdure.waiting where id = %s for update nowait", low)
    done(finished)
    assert engine.statuses([low, high]) == ["completed"] * 2


def test_an_ended_parent_tells_its_own_after_the_higher_ones(
    engine: Engine, sessions: Sessions
) -> None:
    """The parent told first has the highest id, though its end is told to the lowest."""
    root = engine.start("root")
    (middle_id,) = engine.spawn(root, ["middle"])
    (middle,) = engine.claim()
    engine.spawn(middle, ["leaf"])
    (leaf,) = engine.claim()
    other = engine.start("other")
    engine.spawn(other, ["leaf"])
    (other_leaf,) = engine.claim()
    holder, finisher = sessions.open(), sessions.open()
    with holder.conn.transaction():
        holder.query("select from perdure.waiting where id = %s for update", root.id)
        finished = finisher.later(
            finisher.finish,
            outcome_of(leaf, "completed"),
            outcome_of(other_leaf, "completed"),
            worker=engine.worker,
        )
        sessions.await_waiting(finisher, finished)
        with engine.conn.transaction(), pytest.raises(psycopg.errors.LockNotAvailable):
            engine.query("select from perdure.waiting where id = %s for update nowait", middle_id)
    done(finished)
    assert engine.statuses([root.id, middle_id, other.id]) == ["completed"] * 3


def test_two_that_finish_across_one_another_do_not_deadlock(
    engine: Engine, sessions: Sessions
) -> None:
    """Each has children of both parents; in whatever order, neither locks the lower first."""
    for _ in range(15):
        parents = _two_parents(engine, children=2)
        leases = engine.claim(4)
        one, other = sessions.open(), sessions.open()
        mine = [leases[0], leases[2]]
        theirs = [leases[3], leases[1]]
        calls = [
            session.later(
                session.rows,
                "exchange",
                session.worker,
                [outcome_of(lease, "completed") for lease in part],
            )
            for session, part in (
                (one, _held(engine, one, mine)),
                (other, _held(engine, other, theirs)),
            )
        ]
        for call in calls:
            done(call)
        assert engine.statuses(parents) == ["completed"] * 2
        one.close()
        other.close()


def test_a_climb_is_bounded_and_the_rest_is_told_by_close_batch(engine: Engine) -> None:
    root = engine.start()
    engine.spawn(root, ["middle"] * 1002)
    middles = engine.claim(1002)
    spawned = [outcome_of(middle, "spawned", children=[{"task": "leaf"}]) for middle in middles]
    engine.finish(*spawned)
    engine.finish(*(outcome_of(leaf, "completed") for leaf in engine.claim(1002)))
    assert engine.one("select count(*) from perdure.closing") > 0
    assert engine.status(root.id) == "waiting_for_children"
    engine.close_all()
    assert engine.status(root.id) == "completed"


def test_a_child_is_younger_than_its_parent(engine: Engine) -> None:
    id_ = engine.enqueue()
    with pytest.raises(psycopg.errors.CheckViolation):
        engine.run("update perdure.execution set parent_id = id, parent_generation = 1")
    cache = "select seqcache from pg_sequence where seqrelid = 'perdure.execution_id_seq'::regclass"
    assert engine.one(cache) == 1, f"ids above {id_} are handed out in order"


def _two_parents(engine: Engine, children: int = 1) -> list[int]:
    parents = [engine.start(), engine.start()]
    for parent in parents:
        engine.spawn(parent, ["leaf"] * children)
    return [parent.id for parent in parents]


def _held(engine: Engine, session: Engine, leases: list[Lease]) -> list[Lease]:
    """The leases, given to this session's worker."""
    worker = session.worker
    engine.run(
        "update perdure.running set worker_id = (select max(id) from perdure.worker)"
        " where id = any(%s)",
        [lease.id for lease in leases],
    )
    assert worker
    return leases
