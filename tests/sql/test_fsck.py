"""fsck finds every kind of damage, and says which: the oracle of all the other tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from fix_engine import Engine

pytestmark = pytest.mark.fsck(False)

SOURCE = Path(__file__).resolve().parents[2] / "sql" / "60_views" / "fsck.sql"


@dataclass(frozen=True, slots=True)
class Sound:
    """Executions of every kind, none of them damaged."""

    ready: int
    keyed: int
    due: int  # has a deadline
    running: int
    ended: int
    ended_keyed: int
    parent: int
    children: tuple[int, int]
    untold: int  # a parent whose only child has ended without telling it
    bereft: int
    orphan: int  # the child of `bereft`
    turn: int  # runs, with a shard key
    held: int  # behind it
    nobody: None = None


@pytest.fixture
def sound(engine: Engine) -> Sound:
    parent = engine.start("parent")
    first, second = engine.spawn(parent, ["child", "child"], output=1, finalize={"task": "f"})
    untold = engine.start("untold")
    engine.spawn(untold, ["told_nobody"])
    bereft = engine.start("bereft")
    (orphan,) = engine.spawn(bereft, ["orphan"])
    ended = engine.start("ended")
    engine.complete(ended)
    ended_keyed = engine.start("ended", key="gone")
    engine.complete(ended_keyed)
    engine.enqueue("nap", sleeping=True, key="nap")
    engine.value("shard_queue", "default", 4)
    turn = engine.enqueue("sharded", shard_key="k")
    held = engine.enqueue("sharded", shard_key="k")
    assert [lease.id for lease in engine.claim(10, tasks=["sharded"])] == [turn]
    made = Sound(
        turn=turn,
        held=held,
        ready=engine.enqueue("ready"),
        keyed=engine.enqueue("keyed", key="k"),
        due=engine.enqueue("due", deadline="2100-01-01"),
        running=engine.start("running").id,
        ended=ended.id,
        ended_keyed=ended_keyed.id,
        parent=parent.id,
        children=(first, second),
        untold=untold.id,
        bereft=bereft.id,
        orphan=orphan,
    )
    # scheduled, waiting in a sequence, retried
    engine.enqueue("later", delay=timedelta(days=1))
    engine.spawn(engine.start("sequence"), ["a", "b", "c"], sequential=True)
    engine.fail(engine.start("retried", max_attempts=2))
    assert engine.fsck() == []
    return made


END = """
  insert into perdure.finished (id, finished_at, token, attempts, crashes, iteration, status)
  values (%s, now(), 99, 0, 0, 0, 'completed')
"""

# invariant → (the execution it is found at, damage in which %s stands for ids, of these executions)
DAMAGE: dict[str, tuple[str, str, list[str]]] = {
    "an execution stands in one room": ("ready", END, ["ready"]),
    "an execution stands in a room": (
        "ready",
        "delete from perdure.ready where id = %s",
        ["ready"],
    ),
    "a room row has its facts": (
        "ready",
        "delete from perdure.execution where id = %s",
        ["ready"],
    ),
    "a room row repeats its facts": (
        "ready",
        "update perdure.ready set task = 'another' where id = %s",
        ["ready"],
    ),
    "ready and scheduled rows stand in their queue": (
        "ready",
        "update perdure.ready set queue = 'another' where id = %s",
        ["ready"],
    ),
    "a sleeper sleeps and nothing else does": (
        "ready",
        "update perdure.execution set is_sleeping = true where id = %s",
        ["ready"],
    ),
    "the counter equals the live children": (
        "parent",
        "update perdure.waiting set active = 3 where id = %s",
        ["parent"],
    ),
    "a parent waits for somebody": (
        "untold",
        """
        with child as materialized (
          select perdure._end_live(array_agg(e.id), 'cancelled', '{}', now())
          from perdure.execution as e
          where e.task = 'told_nobody'
        )
        update perdure.waiting set active = 0 where id = %s and exists (select from child)
        """,
        ["untold"],
    ),
    "a live child has a waiting parent of its generation": (
        "orphan",
        f"with gone as (delete from perdure.waiting where id = %s) {END}",
        ["bereft", "bereft"],
    ),
    "children have different places": (
        "child 0",
        "update perdure.execution set position = 0 where id = %s",
        ["child 1"],
    ),
    "a root is a root of itself": (
        "ready",
        "update perdure.execution set root_id = %s where id = %s",
        ["ended", "ready"],
    ),
    "a child has its parent's root": (
        "child 0",
        "update perdure.execution set root_id = %s where id = %s",
        ["ended", "child 0"],
    ),
    "a lease has a worker": (
        "running",
        "update perdure.running set worker_id = 404 where id = %s",
        ["running"],
    ),
    "a token is above all recorded before": (
        "ready",
        """
        insert into perdure.attempt (execution_id, token, attempt, ended_at, status)
        values (%s, 5, 1, now(), 'failed')
        """,
        ["ready"],
    ),
    "a key leads to its execution": (
        "ready",
        "insert into perdure.key (scope, key, id, keep_ms) values ('ready', 'none', %s, 0)",
        ["ready"],
    ),
    "a live keyed execution holds its key": (
        "keyed",
        "delete from perdure.key where id = %s",
        ["keyed"],
    ),
    "a key of an ended execution lapses": (
        "ended_keyed",
        "insert into perdure.key (scope, key, id, keep_ms) values ('ended', 'gone', %s, 0)",
        ["ended_keyed"],
    ),
    "a live execution with a deadline will meet it": (
        "due",
        "delete from perdure.deadline where id = %s",
        ["due"],
    ),
    "a deadline belongs to a live execution": (
        "ended",
        "insert into perdure.deadline (id, at) values (%s, now())",
        ["ended"],
    ),
    "what is parked belongs to a waiting parent": (
        "ready",
        "insert into perdure.parked (id, output) values (%s, '1')",
        ["ready"],
    ),
    "a step to come belongs to a sequence": (
        "ready",
        "insert into perdure.step (parent_id, position, item) values (%s, 1, '{}')",
        ["ready"],
    ),
    "a row of a shard key stands in its shard": (
        "held",
        "update perdure.ready set shard = 3 - shard where id = %s",
        ["held"],
    ),
    "a turn belongs to a live execution of its shard key": (
        "ended",
        "insert into perdure.turn (queue, shard_key, id) values ('default', 'another', %s)",
        ["ended"],
    ),
    "what runs has the turn of its shard key": (
        "turn",
        """
        with gone as (delete from perdure.turn where id = %s)
        update perdure.ready set is_held = false where id = %s
        """,
        ["turn", "held"],
    ),
    "somebody of its shard key goes before a held row": (
        "held",
        """
        with gone as (delete from perdure.running where id = %s returning id, started_at),
        turn as (delete from perdure.turn as t using gone where t.id = gone.id)
        insert into perdure.finished (
          id, started_at, finished_at, token, attempts, crashes, iteration, status
        )
        select id, started_at, now(), 99, 0, 0, 0, 'completed' from gone
        """,
        ["turn"],
    ),
    "a sharded queue has all its shards": (
        "nobody",
        "delete from perdure.shard where number = 3 or number = %s",
        ["ended"],
    ),
    "attempts stay within the policy": (
        "ended",
        "update perdure.finished set attempts = 2 where id = %s",
        ["ended"],
    ),
}


def id_of(sound: Sound, name: str) -> int | None:
    if name.startswith("child "):
        return sound.children[int(name[-1])]
    found = getattr(sound, name)
    assert found is None or isinstance(found, int)
    return found


@pytest.mark.parametrize("invariant", DAMAGE)
def test_damage_is_found_and_named(engine: Engine, sound: Sound, invariant: str) -> None:
    where, damage, subjects = DAMAGE[invariant]
    engine.run(damage, *(id_of(sound, name) for name in subjects))
    found = [(row["invariant"], row["id"]) for row in engine.fsck()]
    assert found == [(invariant, id_of(sound, where))]


def test_every_invariant_has_its_damage() -> None:
    texts = re.findall(r"^ *select '((?:[^']|'')+)',", SOURCE.read_text(), re.MULTILINE)
    assert sorted(text.replace("''", "'") for text in texts) == sorted(DAMAGE)


def test_all_damage_is_reported_at_once(engine: Engine, sound: Sound) -> None:
    engine.run("delete from perdure.key where id = %s", sound.keyed)
    engine.run("update perdure.running set worker_id = 404 where id = %s", sound.running)
    assert len(engine.fsck()) == 2


def test_fsck_is_quiet_on_an_empty_database(engine: Engine) -> None:
    assert engine.fsck() == []
