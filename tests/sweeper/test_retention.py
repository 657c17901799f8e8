"""`config.retention`: ended trees go, each as a whole, and nothing that is referred to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from fix_engine import Engine
from fix_sessions import Sessions


@pytest.fixture(autouse=True)
def _kept_for_an_hour(engine: Engine) -> None:
    engine.run("update perdure.config set retention = '1 hour'")


def sweep_all(engine: Engine) -> int:
    """Sweep until a walk is over; how many were deleted."""
    engine.run("update perdure.retention set next_at = 'epoch'")
    deleted = 0
    while True:
        row = engine.row("sweep")
        deleted += int(row["deleted"])
        if not row["more"]:
            return deleted


def left(engine: Engine, ids: Sequence[int]) -> list[int]:
    found = engine.query(
        "select id from perdure.execution where id = any(%s) order by id", list(ids)
    )
    return [row["id"] for row in found]


def ended(engine: Engine, task: str = "task", **options: Any) -> int:
    lease = engine.start(task, **options)
    engine.complete(lease)
    return lease.id


def tree(engine: Engine, depth: int = 2, width: int = 2) -> list[int]:
    """A tree with finalizes that has ended; its ids, the root first."""
    root = engine.start("node")
    ids, level = [root.id], [root]
    for n in range(depth):
        below = []
        for lease in level:
            final = {"task": "final"} if n == 0 else None
            ids += engine.spawn(lease, ["node"] * width, finalize=final)
        below = engine.claim(10_000, tasks=["node"])
        level = below
    for lease in level:
        engine.complete(lease)
    for lease in engine.claim(10, tasks=["final"]):
        ids.append(lease.id)
        engine.complete(lease)
    assert engine.status(root.id) == "completed"
    return ids


def test_nothing_is_deleted_unless_it_is_asked_for(engine: Engine) -> None:
    engine.run("update perdure.config set retention = null")
    id_ = ended(engine)
    engine.advance(1e9)
    assert sweep_all(engine) == 0
    assert left(engine, [id_]) == [id_]


def test_what_ended_long_ago_goes_with_its_history_and_the_rest_stays(engine: Engine) -> None:
    failed = engine.start(max_attempts=2, retry_delay="0 s")
    engine.fail(failed)
    engine.complete(engine.claim_one(failed.id))
    old = [failed.id, ended(engine), engine.enqueue("cancelled")]
    engine.value("cancel", old[2])
    waiting = engine.enqueue("waits")
    engine.advance(3000)
    young = ended(engine, "young")
    engine.advance(700)
    assert sweep_all(engine) == 3
    assert left(engine, [*old, waiting, young]) == [waiting, young]
    for table, column in (("finished", "id"), ("attempt", "execution_id")):
        assert not engine.query(f"select from perdure.{table} where {column} = any(%s)", old)
    assert sweep_all(engine) == 0


def test_a_redrive_of_what_was_deleted_finds_nothing(engine: Engine) -> None:
    id_ = ended(engine)
    engine.advance(4000)
    assert sweep_all(engine) == 1
    for function in ("retry_finished", "cancel"):
        with pytest.raises(psycopg.Error) as caught:
            engine.rows(function, id_)
        assert caught.value.sqlstate == "QD001"


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (6, 1)])
def test_a_tree_goes_as_a_whole(engine: Engine, shape: tuple[int, int]) -> None:
    ids = tree(engine, *shape)
    engine.advance(4000)
    other = ended(engine, "young")
    assert sweep_all(engine) == len(ids)
    assert left(engine, [*ids, other]) == [other]


def test_a_tree_of_several_generations_goes_as_a_whole(engine: Engine) -> None:
    root = tree(engine, 1, 2)[0]
    engine.value("retry_finished", root)
    again = engine.claim_one(root)
    engine.spawn(again, ["node"] * 3)
    for lease in engine.claim(3, tasks=["node"]):
        engine.complete(lease)
    engine.advance(4000)
    assert sweep_all(engine) == 1 + 3 + 3
    assert engine.one("select count(*) from perdure.execution") == 0


@pytest.mark.parametrize("pace", [1, 2, 7])
def test_a_tree_goes_in_several_passes_leaves_first(engine: Engine, pace: int) -> None:
    """Whenever somebody looks, no parent is missing; fsck sees to it."""
    ids = tree(engine, 3, 2)
    engine.advance(4000)
    deleted, begun = 0, False
    for _ in range(1000):
        row = engine.row("sweep", max=pace)
        assert row["deleted"] <= pace
        deleted += row["deleted"]
        begun = begun or row["deleted"] > 0
        there = set(left(engine, ids))
        assert begun == (len(there) < len(ids))
        orphans = """
          select from perdure.execution as e
          where e.parent_id is not null
            and not exists (select from perdure.execution as p where p.id = e.parent_id)
        """
        assert engine.query(orphans) == []
        assert engine.fsck() == []
        if not row["more"]:
            break
    assert deleted == len(ids)


@pytest.mark.slow
def test_a_tree_of_thousands_goes(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["leaf"] * 5000)
    engine.value("cancel", root.id)
    engine.advance(4000)
    assert sweep_all(engine) == 5001


def test_a_deep_chain_goes(engine: Engine) -> None:
    ids = tree(engine, 60, 1)
    engine.advance(4000)
    assert sweep_all(engine) == len(ids)


# What keeps a tree


def test_a_live_tree_stays_as_a_whole(engine: Engine) -> None:
    root = engine.start("node")
    children = engine.spawn(root, ["node", "node"])
    engine.complete(engine.claim_one(children[0]))
    engine.advance(4000)
    assert sweep_all(engine) == 0
    assert left(engine, [root.id, *children]) == [root.id, *children]


def test_a_redriven_descendant_keeps_its_tree(engine: Engine) -> None:
    ids = tree(engine, 2, 2)
    engine.advance(4000)
    engine.value("retry_finished", ids[-2], detach=True)
    assert sweep_all(engine) == 0
    engine.complete(engine.claim_one(ids[-2]))
    assert sweep_all(engine) == 0, "it ended a moment ago"
    engine.advance(4000)
    assert sweep_all(engine) == len(ids)


@pytest.mark.parametrize("key_for", ["ever", "1 day"])
def test_a_key_in_force_keeps_its_tree(engine: Engine, key_for: str) -> None:
    single = ended(engine, key="k", key_for=key_for)
    root = engine.start("root")
    children = engine.spawn(root, [{"task": "a", "key": "c", "key_for": key_for}, {"task": "b"}])
    for lease in engine.claim(2, tasks=["a", "b"]):
        engine.complete(lease)
    engine.advance(4000)
    assert sweep_all(engine) == 0
    assert engine.enqueue(key="k", key_for=key_for) == single, "and the key still leads to it"
    engine.advance(2 * 86_400)
    assert sweep_all(engine) == (0 if key_for == "ever" else 4)
    assert len(left(engine, [single, root.id, *children])) == (4 if key_for == "ever" else 0)


def test_a_debt_in_closing_keeps_its_tree(engine: Engine) -> None:
    root = engine.start("root")
    engine.spawn(root, ["leaf"] * 4)
    engine.run("update perdure.config set cancel_limit = 1")
    engine.value("cancel", root.id)
    engine.advance(4000)
    engine.run("update perdure.closing set due_at = perdure._clock() + interval '1 hour'")
    assert sweep_all(engine) == 0
    engine.run("update perdure.closing set due_at = perdure._clock()")
    sweep_all(engine)
    assert left(engine, [root.id]) == [root.id], "its leaves ended a moment ago"
    engine.advance(4000)
    assert sweep_all(engine) == 5


def test_what_another_transaction_redrives_stays(engine: Engine, sessions: Sessions) -> None:
    ids = [ended(engine), *tree(engine, 1, 2)]
    engine.advance(4000)
    other = sessions.open()
    with other.conn.transaction():
        other.value("retry_finished", ids[0])
        other.value("retry_finished", ids[2], detach=True)
        sweep_all(engine)  # it waits for nobody
        assert {ids[0], ids[1], ids[2]} <= set(left(engine, ids))
    assert engine.statuses([ids[0], ids[2]]) == ["ready", "ready"]


# The walk


def test_a_walk_that_is_over_rests_and_begins_anew(engine: Engine) -> None:
    kept = ended(engine, key="k", key_for="ever")
    engine.advance(4000)
    assert sweep_all(engine) == 0
    state = engine.query("select * from perdure.retention")
    assert state[0]["cursor"] == 0
    old = ended(engine)
    engine.run("update perdure.execution set created_at = created_at - interval '1 day'")
    engine.run("update perdure.finished set finished_at = finished_at - interval '1 day'")
    engine.row("sweep")
    assert engine.query("select * from perdure.retention") == state, "it rests: nothing is written"
    engine.advance(61)
    assert engine.row("sweep")["deleted"] == 1
    assert left(engine, [kept, old]) == [kept]


def test_the_walk_ends_at_the_first_that_is_too_young(engine: Engine) -> None:
    engine.rows("enqueue_many", [{"task": "t"}] * 5)
    engine.advance(10)
    before = engine.query("select * from perdure.retention")
    with engine.conn.transaction():
        engine.row("sweep")
        assert engine.one("select pg_current_xact_id_if_assigned() is null")
    assert engine.query("select * from perdure.retention") == before


def test_one_at_a_time_walks(engine: Engine, sessions: Sessions) -> None:
    ids = [ended(engine) for _ in range(3)]
    engine.advance(4000)
    other = sessions.open()
    with other.conn.transaction():
        assert other.row("sweep")["deleted"] == 3
        assert engine.row("sweep")["deleted"] == 0
    assert left(engine, ids) == []


def test_retention_that_is_switched_off_in_the_middle_stops(engine: Engine) -> None:
    ids = tree(engine, 3, 2)
    engine.advance(4000)
    while engine.row("sweep", max=2)["deleted"] == 0:
        pass
    engine.run("update perdure.config set retention = null")
    there = left(engine, ids)
    assert 0 < len(there) < len(ids)
    assert engine.row("sweep")["deleted"] == 0
    engine.run("update perdure.config set retention = '1 hour'")
    sweep_all(engine)
    assert left(engine, ids) == []
