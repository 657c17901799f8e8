"""Enqueue: defaults and limits, keys, batches, task defaults, the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fix_engine import Engine, Row

# Defaults and limits, line by line ----------------------------------------------------------------


def stored(engine: Engine, id: int) -> Row:  # noqa: A002
    (row,) = engine.query("select * from perdure.execution where id = %s", id)
    return row


DEFAULTS = {
    "queue": "default",
    "priority": 0,
    "max_attempts": 1,
    "max_crashes": 3,
    "timeout_ms": 5 * 60_000,
    "deadline_at": None,
    "retry_delay_ms": 1_000,
    "retry_multiplier": 2.0,
    "retry_max_delay_ms": 3_600_000,
    "retry_jitter": 0.1,
    "is_linear": False,
    "is_sleeping": False,
    "key": None,
    "headers": None,
    "tags": None,
    "input": {},
}


def test_what_is_not_said_has_the_engine_s_default(engine: Engine) -> None:
    row = stored(engine, engine.value("enqueue", "task"))
    assert {name: row[name] for name in DEFAULTS} == DEFAULTS
    assert row["root_id"] == row["id"]


def test_everything_that_is_said_is_kept(engine: Engine) -> None:
    now = engine.stop_clock()
    row = stored(
        engine,
        engine.enqueue(
            "task",
            [1, {"a": None}],
            queue="mail",
            priority=-7,
            delay=timedelta(minutes=2),
            max_attempts=9,
            timeout=timedelta(seconds=12.5),
            deadline=now + timedelta(days=1),
            key="k",
            key_scope="shared",
            retry_delay=timedelta(seconds=2),
            retry_multiplier=1.5,
            retry_max_delay=timedelta(hours=2),
            retry_jitter=0.0,
            retry_backoff="linear",
            max_crashes=0,
            headers=Jsonb({"trace": "1", "nothing": None}),
            tags=["a", "b"],
        ),
    )
    kept = {
        "task": "task",
        "input": [1, {"a": None}],
        "queue": "mail",
        "priority": -7,
        "start_at": now + timedelta(minutes=2),
        "max_attempts": 9,
        "timeout_ms": 12_500,
        "deadline_at": now + timedelta(days=1),
        "key": "k",
        "key_scope": "shared",
        "retry_delay_ms": 2_000,
        "retry_multiplier": 1.5,
        "retry_max_delay_ms": 7_200_000,
        "retry_jitter": 0.0,
        "is_linear": True,
        "max_crashes": 0,
        "headers": {"trace": "1", "nothing": None},
        "tags": ["a", "b"],
    }
    assert {name: row[name] for name in kept} == kept


def test_an_item_of_a_batch_takes_the_same_fields_as_the_arguments(engine: Engine) -> None:
    now = engine.stop_clock()
    one = engine.enqueue(
        "task",
        1,
        queue="mail",
        priority=3,
        delay=timedelta(seconds=1.5),
        max_attempts=2,
        timeout=timedelta(seconds=2),
        deadline=now + timedelta(hours=1),
        retry_delay=timedelta(seconds=3),
        retry_multiplier=3.0,
        retry_max_delay=timedelta(seconds=4),
        retry_jitter=0.5,
        retry_backoff="linear",
        max_crashes=1,
        headers=Jsonb({"h": 1}),
        tags=["t"],
    )
    (many,) = engine.rows(
        "enqueue_many",
        [
            {
                "task": "task",
                "input": 1,
                "queue": "mail",
                "priority": 3,
                "delay": 1.5,
                "max_attempts": 2,
                "timeout": "2 s",
                "deadline": 3600,
                "retry_delay": 3,
                "retry_multiplier": 3,
                "retry_max_delay": "00:00:04",
                "retry_jitter": 0.5,
                "retry_backoff": "linear",
                "max_crashes": 1,
                "headers": {"h": 1},
                "tags": ["t"],
            }
        ],
    )
    apart = {"id": 0, "root_id": 0}
    assert stored(engine, one) | apart == stored(engine, many["id"]) | apart


@pytest.mark.parametrize("input", [None, True, 0, "text", [], {}, {"a": [1, "é", None]}])
def test_the_input_is_any_json(engine: Engine, input: Any) -> None:  # noqa: A002
    id = engine.value("enqueue", "task", Jsonb(input))  # noqa: A001
    (lease,) = engine.claim()
    assert (lease.id, lease.input) == (id, input)


LONG = "é" * 255
DAY = 86_400

# line of the table → (accepted items, refused items with their codes)
LIMITS: dict[str, tuple[list[Row], list[tuple[Row, str]]]] = {
    "priority is a smallint": (
        [{"priority": -32768}, {"priority": 32767}],
        [({"priority": -32769}, "QD026"), ({"priority": 32768}, "QD026")],
    ),
    "max_attempts is 1 to 1000": (
        [{"max_attempts": 1}, {"max_attempts": 1000}],
        [
            ({"max_attempts": 0}, "QD024"),
            ({"max_attempts": 1001}, "QD024"),
            ({"max_attempts": -1}, "QD024"),
            ({"max_attempts": 1e9}, "QD024"),
            ({"max_attempts": 1.5}, "QD024"),
        ],
    ),
    "the crash budget is 0 to 1000": (
        [{"max_crashes": 0}, {"max_crashes": 1000}],
        [({"max_crashes": -1}, "QD024"), ({"max_crashes": 1001}, "QD024")],
    ),
    "a retry's delay is at most 24 hours": (
        [{"retry_delay": 0}, {"retry_delay": DAY}],
        [({"retry_delay": -0.001}, "QD023"), ({"retry_delay": DAY + 0.001}, "QD023")],
    ),
    "the cap is at most 24 hours and not below the delay": (
        [
            {"retry_max_delay": DAY, "retry_delay": DAY},
            {"retry_max_delay": 5, "retry_delay": 5},
            {"retry_max_delay": 0, "retry_delay": 0},
        ],
        [
            ({"retry_max_delay": DAY + 0.001}, "QD023"),
            ({"retry_max_delay": 5, "retry_delay": 5.001}, "QD023"),
            ({"retry_max_delay": -1}, "QD023"),
        ],
    ),
    "the multiplier is 0.1 to 100": (
        [{"retry_multiplier": 0.1}, {"retry_multiplier": 100}],
        [
            ({"retry_multiplier": 0.09}, "QD026"),
            ({"retry_multiplier": 100.1}, "QD026"),
            ({"retry_multiplier": "NaN"}, "QD026"),
        ],
    ),
    "jitter is 0 to 1": (
        [{"retry_jitter": 0}, {"retry_jitter": 1}],
        [({"retry_jitter": -0.1}, "QD026"), ({"retry_jitter": 1.1}, "QD026")],
    ),
    "the back-off is exponential or linear": (
        [{"retry_backoff": "exponential"}, {"retry_backoff": "linear"}],
        [({"retry_backoff": "quadratic"}, "QD026"), ({"retry_backoff": 2}, "QD021")],
    ),
    "the timeout is 1 ms to 30 days": (
        [{"timeout": 0.001}, {"timeout": 30 * DAY}],
        [
            ({"timeout": 0}, "QD023"),
            ({"timeout": 0.0004}, "QD023"),
            ({"timeout": -1}, "QD023"),
            ({"timeout": 30 * DAY + 0.001}, "QD023"),
        ],
    ),
    "a delay is 0 to ten years": (
        [{"delay": 0}, {"delay": 3650 * DAY}, {"delay": "1 month"}],
        [
            ({"delay": -0.001}, "QD023"),
            ({"delay": 3650 * DAY + 1}, "QD023"),
            ({"delay": 1e300}, "QD023"),
            ({"delay": "soon"}, "QD023"),
            ({"delay": "infinity"}, "QD023"),
            ({"delay": [1]}, "QD021"),
        ],
    ),
    "run_at is a moment, past or within ten years": (
        [{"run_at": "2001-01-01T00:00:00Z"}, {"run_at": 3650 * DAY - 60}],
        [
            ({"run_at": 3650 * DAY + 60}, "QD023"),
            ({"run_at": "infinity"}, "QD023"),
            ({"run_at": "-infinity"}, "QD023"),
            ({"run_at": "tomorrowish"}, "QD021"),
            ({"run_at": 5, "delay": 5}, "QD026"),
        ],
    ),
    "a deadline lies ahead of now and of the start": (
        [{"deadline": 0.5}, {"deadline": 61, "delay": 60}],
        [
            ({"deadline": -1}, "QD025"),
            ({"deadline": 0}, "QD025"),
            ({"deadline": "2001-01-01"}, "QD025"),
            ({"deadline": 60, "delay": 60}, "QD025"),
            ({"deadline": "infinity"}, "QD023"),
            ({"deadline": "whenever"}, "QD021"),
        ],
    ),
    "a task has 1 to 255 characters and no control characters": (
        [{"task": "x"}, {"task": LONG}, {"task": "Straße, 東京 / v2!"}],
        [
            ({"task": ""}, "QD020"),
            ({"task": LONG + "x"}, "QD020"),
            ({"task": "a\nb"}, "QD020"),
            ({"task": "a\x7fb"}, "QD020"),
            ({"task": "a\u0085b"}, "QD020"),
            ({"task": None}, "QD021"),
            ({"task": 7}, "QD021"),
        ],
    ),
    "a queue has 1 to 255 characters and no control characters": (
        [{"queue": LONG}],
        [
            ({"queue": ""}, "QD020"),
            ({"queue": LONG + "x"}, "QD020"),
            ({"queue": "a\tb"}, "QD020"),
            ({"queue": 7}, "QD021"),
        ],
    ),
    "a key has 1 to 255 characters and no control characters": (
        [{"key": LONG}, {"key": "k", "key_scope": LONG}],
        [
            ({"key": ""}, "QD020"),
            ({"key": LONG + "x"}, "QD020"),
            ({"key": "a\x01b"}, "QD020"),
            ({"key": 7}, "QD021"),
            ({"key": "k", "key_scope": ""}, "QD020"),
            ({"key": "k", "key_scope": LONG + "x"}, "QD020"),
        ],
    ),
    "key_for is live, ever or an interval": (
        [
            {"key": "1", "key_for": "live"},
            {"key": "2", "key_for": "ever"},
            {"key": "3", "key_for": "7 days"},
            {"key": "5", "key_for": "10000 years"},
        ],
        [
            ({"key": "4", "key_for": "100000 years"}, "QD023"),
            ({"key": "4", "key_for": "sometimes"}, "QD023"),
            ({"key": "4", "key_for": "-1 day"}, "QD023"),
            ({"key": "4", "key_for": "infinity"}, "QD023"),
        ],
    ),
    "a tag has 1 to 255 characters and no control characters": (
        [{"tags": []}, {"tags": [LONG]}],
        [
            ({"tags": [""]}, "QD020"),
            ({"tags": [LONG + "x"]}, "QD020"),
            ({"tags": [None]}, "QD020"),
            ({"tags": "text"}, "QD021"),
            ({"tags": {"a": 1}}, "QD021"),
        ],
    ),
    "headers are an object": (
        [{"headers": {}}],
        [({"headers": [1]}, "QD021"), ({"headers": "text"}, "QD021")],
    ),
    "a sleeper needs a key, or a string as its input": (
        [{"sleeping": True, "key": "s"}, {"sleeping": True, "input": "is the key"}],
        [
            ({"sleeping": True}, "QD026"),
            ({"sleeping": True, "input": 7}, "QD026"),
            ({"sleeping": True, "input": ""}, "QD020"),
            ({"sleeping": "perhaps", "key": "k"}, "QD021"),
        ],
    ),
    "a sleeper sleeps for up to ten years": (
        [{"sleeping": True, "key": "t", "timeout": 3650 * DAY}],
        [({"sleeping": True, "key": "u", "timeout": 3651 * DAY}, "QD023")],
    ),
    "a field has to be known": ([], [({"prio": 1}, "QD026"), ({"tasks": []}, "QD026")]),
}


@pytest.mark.parametrize("line", LIMITS)
def test_a_limit_is_accepted_and_what_is_beyond_it_refused(engine: Engine, line: str) -> None:
    accepted, refused = LIMITS[line]
    items = [{"task": "task"} | item for item in accepted]
    for item, row in zip(items, engine.rows("enqueue_many", Jsonb(items)), strict=True):
        assert (row["code"], row["is_new"]) == (None, True), (item, row["message"])

    before = engine.dump()
    for item, code in refused:
        (row,) = engine.rows("enqueue_many", [{"task": "task"} | item])
        assert (row["code"], row["id"]) == (code, None), (item, row["message"])
        assert row["message"]
        assert engine.dump() == before, item


def test_a_payload_is_one_mebibyte_of_json_text_and_not_a_byte_more(engine: Engine) -> None:
    limit = 1 << 20
    fits = "x" * (limit - 2)  # and two quotation marks
    assert engine.enqueue(input=fits)
    before = engine.dump()
    for item in (
        {"input": fits + "x"},
        {"headers": {"h": fits}},
        {"input": "\u00e9" * (limit // 2)},
    ):
        (row,) = engine.rows("enqueue_many", [{"task": "task"} | item])
        assert row["code"] == "QD022"
    assert engine.dump() == before


def test_the_payload_limit_is_a_setting(engine: Engine) -> None:
    engine.run("update perdure.config set payload_limit = 2048")
    assert engine.enqueue(input="x" * 2046)
    (row,) = engine.rows("enqueue_many", [{"task": "task", "input": "x" * 2047}])
    assert row["code"] == "QD022"


# The caller's transaction -------------------------------------------------------------------------


def test_enqueue_rolls_back_with_its_caller(engine: Engine) -> None:
    before = engine.dump()
    with engine.conn.transaction(force_rollback=True):
        id = engine.enqueue(key="k")  # noqa: A001
        engine.enqueue("sleeper", sleeping=True, key="s")
        assert engine.status(id) == "ready"
    assert engine.dump() == before


def test_enqueue_is_seen_by_nobody_before_its_caller_commits(
    engine: Engine, connect: Callable[..., Any]
) -> None:
    other = Engine(connect())
    with engine.conn.transaction():
        engine.enqueue()
        assert other.claim() == []
    assert len(other.claim()) == 1


def test_a_refused_enqueue_raises_and_writes_nothing(engine: Engine) -> None:
    before = engine.dump()
    with pytest.raises(psycopg.Error, match="max_attempts is 1 to 1000, got 0") as raised:
        engine.enqueue(max_attempts=0)
    assert raised.value.sqlstate == "QD024"
    assert engine.dump() == before


# Batches ------------------------------------------------------------------------------------------


def test_a_batch_answers_item_by_item_in_the_order_given(engine: Engine) -> None:
    rows = engine.rows("enqueue_many", [{"task": f"task_{n}", "input": n} for n in range(50)])
    assert [row["item"] for row in rows] == list(range(50))
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids)
    assert [stored(engine, id)["input"] for id in ids] == list(range(50))  # noqa: A001


def test_a_bad_item_leaves_its_batch_mates_alone(engine: Engine) -> None:
    rows = engine.rows(
        "enqueue_many",
        Jsonb(
            [
                {"task": "good"},
                {"task": ""},
                "no object",
                None,
                [],
                {"input": 1},
                {"task": "late", "delay": "soon"},
                {"task": "good", "key": "k"},
                {"task": "good", "key": "k", "input": "another"},
                {"task": "good", "key": "k"},
            ]
        ),
    )
    assert [row["code"] for row in rows] == [
        None,
        "QD020",
        "QD021",
        "QD021",
        "QD021",
        "QD021",
        "QD023",
        None,
        "QD003",
        None,
    ]
    assert [row["is_new"] for row in rows] == [True] + [False] * 6 + [True, False, False]
    assert rows[9]["id"] == rows[7]["id"]
    assert engine.query("select id from perdure.execution order by id") == [
        {"id": rows[0]["id"]},
        {"id": rows[7]["id"]},
    ]


def test_an_empty_batch_is_no_error(engine: Engine) -> None:
    assert engine.rows("enqueue_many", Jsonb([])) == []


# Neighbours that differ in little; each has to fare as it would alone.
NEIGHBOURS: list[Any] = [
    {"task": "task"},
    {"task": "task", "input": 1},
    {"task": "task", "input": "x" * 5000},
    {"task": "task", "input": "x" * 3000, "key": "1"},
    {"task": "task", "key": "2"},
    {"task": "task", "key": ""},
    {"task": "task", "key": 7},
    {"task": "task", "key": None},
    {"task": "task", "priority": 3},
    {"task": "task", "input": 2, "priority": 3},
    {"task": "task", "priority": 1e9},
    {"task": "task", "input": 3, "priority": 1e9},
    {"task": "task", "input": 4},
    {"task": "task", "delay": 60},
    {"task": "task", "delay": 60, "deadline": 600},
    {"task": "task", "delay": 60, "key": "3", "key_scope": "s"},
    {"task": "task", "key_scope": "s"},
    {"task": "nap", "input": "a"},
    {"task": "nap", "input": "b"},
    {"task": "nap", "input": "c", "key": "d"},
    {"task": "nap", "input": 7},
    {"task": "nap", "input": ""},
    {"task": "nap", "sleeping": False},
    {"task": "mail"},
    {"task": "mail", "queue": "elsewhere"},
    {"task": "mail", "headers": {"h": 1}},
    {"task": "mail", "headers": {"h": "x" * 5000}},
    {"task": "mail", "headers": {"h": "x" * 5000}, "input": 5},
    {"task": ""},
    {"task": "", "input": 6},
    {"input": 6},
    "no object",
    7,
    None,
    [],
    {"task": "task", "input": None},
]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_an_item_fares_among_others_as_it_would_alone(engine: Engine, is_reversed: bool) -> None:
    engine.stop_clock()
    engine.run("update perdure.config set payload_limit = 4096")
    engine.rows("define_tasks", [MAIL, {"name": "nap", "sleeping": True, "timeout": 60}])

    def written(row: Row) -> list[Row]:
        rows = engine.query(
            """
            select to_jsonb(e) - array['id', 'root_id'] as fact,
              (
                select jsonb_agg(to_jsonb(x) - 'id')
                from (
                  select 1 as room, to_jsonb(r) - 'id' from perdure.ready as r where r.id = e.id
                  union all
                  select 2, to_jsonb(s) - 'id' from perdure.scheduled as s where s.id = e.id
                  union all
                  select 3, to_jsonb(w) - 'id' from perdure.waiting as w where w.id = e.id
                  union all
                  select 4, to_jsonb(d) - 'id' from perdure.deadline as d where d.id = e.id
                  union all
                  select 5, to_jsonb(k) - 'id' from perdure.key as k where k.id = e.id
                ) as x
              ) as rooms
            from perdure.execution as e
            where e.id = %s
            """,
            row["id"],
        )
        return [{"code": row["code"], "message": row["message"], "is_new": row["is_new"]}, *rows]

    items = NEIGHBOURS[::-1] if is_reversed else NEIGHBOURS
    alone = []
    for item in items:
        with engine.conn.transaction(force_rollback=True):
            alone.append(written(engine.row("enqueue_many", Jsonb([item]))))
    together = [written(row) for row in engine.rows("enqueue_many", Jsonb(items))]
    assert together == alone
    assert {one[0]["code"] for one in together} >= {None, "QD020", "QD021", "QD022", "QD026"}


def test_a_refused_item_wastes_no_id(engine: Engine) -> None:
    rows = engine.rows("enqueue_many", Jsonb([{"task": "a"}, {"task": ""}, 7, {"task": "b"}]))
    assert rows[3]["id"] == rows[0]["id"] + 1


def test_one_key_many_times_in_a_batch_is_one_execution(engine: Engine) -> None:
    keys = ["b", "a", "b", "c", "a", "b"]
    items = [{"task": "task", "key": key} for key in keys]
    rows = engine.rows("enqueue_many", [*items, {"task": "task", "key": "a", "input": 1}])
    by_key = dict(zip(keys[::-1], [row["id"] for row in rows[:6]][::-1], strict=True))
    assert len(set(by_key.values())) == 3
    assert [row["id"] for row in rows[:6]] == [by_key[key] for key in keys]
    assert [row["is_new"] for row in rows] == [True, True, False, True, False, False, False]
    assert (rows[6]["code"], rows[6]["id"]) == ("QD003", None)


@pytest.mark.parametrize("items", [None, {}, {"task": "t"}, "text", 7])
def test_a_batch_is_an_array(engine: Engine, items: Any) -> None:
    given = None if items is None else Jsonb(items)
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.rows("enqueue_many", given)
    assert raised.value.sqlstate == "QD021"
    assert engine.dump() == before


# Keys ---------------------------------------------------------------------------------------------


def end(engine: Engine, id: int) -> None:  # noqa: A002
    engine.complete(engine.claim_one(id))


def test_the_same_key_is_the_same_execution(engine: Engine) -> None:
    first = engine.enqueue("task", {"n": 1}, key="k")
    assert engine.enqueue("task", {"n": 1}, key="k", priority=5) == first
    (row,) = engine.rows("enqueue_many", [{"task": "task", "input": {"n": 1}, "key": "k"}])
    assert (row["id"], row["is_new"], row["code"]) == (first, False, None)
    assert engine.one("select count(*) from perdure.execution") == 1


@pytest.mark.parametrize(
    ("task", "input"), [("task", {"n": 2}), ("other", {"n": 1})], ids=["input", "task"]
)
def test_the_same_key_with_another_request_is_refused(
    engine: Engine,
    task: str,
    input: Row,  # noqa: A002
) -> None:
    engine.enqueue("task", {"n": 1}, key="k", key_scope="shared")
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.enqueue(task, input, key="k", key_scope="shared")
    assert raised.value.sqlstate == "QD003"
    assert engine.dump() == before


def test_a_key_is_its_task_s_own_unless_a_scope_is_given(engine: Engine) -> None:
    ids = {
        engine.enqueue("one", key="k"),
        engine.enqueue("two", key="k"),
        engine.enqueue("one", key="k", key_scope="elsewhere"),
    }
    assert len(ids) == 3


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_a_key_lives_as_long_as_its_execution(engine: Engine, ending: str) -> None:
    lease = engine.start(key="k")
    assert engine.enqueue(key="k") == lease.id
    engine.report(lease, ending)
    assert engine.query("select * from perdure.key") == []
    assert engine.enqueue(key="k") > lease.id


def test_a_key_can_outlive_its_execution_for_an_interval(engine: Engine) -> None:
    engine.stop_clock()
    first = engine.enqueue(key="k", key_for="1 hour")
    engine.advance(7200)
    end(engine, first)
    engine.advance(3599)
    assert engine.enqueue(key="k", key_for="1 hour") == first
    engine.advance(1)
    assert engine.enqueue(key="k", key_for="1 hour") > first


def test_a_sweep_drops_keys_whose_time_is_over(engine: Engine) -> None:
    end(engine, engine.enqueue(key="k", key_for="1 hour"))
    assert engine.row("sweep")["forgotten"] == 0
    engine.advance(3601)
    assert engine.row("sweep")["forgotten"] == 1
    assert engine.query("select * from perdure.key") == []


def test_a_key_can_be_kept_for_ever(engine: Engine) -> None:
    first = engine.enqueue(key="k", key_for="ever")
    end(engine, first)
    engine.advance(3650 * DAY)
    engine.rows("sweep")
    assert engine.enqueue(key="k", key_for="ever") == first


def test_a_key_stays_with_its_execution_through_retry_again_and_waiting(engine: Engine) -> None:
    id = engine.enqueue(key="k", max_attempts=2, retry_delay=timedelta(0))  # noqa: A001
    engine.fail(engine.claim_one(id))
    assert engine.enqueue(key="k") == id
    engine.report(engine.claim_one(id), "again")
    assert engine.enqueue(key="k") == id
    (child,) = engine.spawn(engine.claim_one(id), ["child"])
    assert engine.enqueue(key="k") == id
    end(engine, child)
    assert engine.enqueue(key="k") > id


# Defaults of a task -------------------------------------------------------------------------------

MAIL: Row = {
    "name": "mail",
    "queue": "post",
    "priority": 4,
    "max_attempts": 7,
    "max_crashes": 2,
    "timeout": 30,
    "deadline": 600,
    "retry_delay": 2,
    "retry_max_delay": "1 minute",
    "retry_multiplier": 3,
    "retry_jitter": 0,
    "retry_backoff": "linear",
    "tags": ["out"],
}


def test_a_task_s_defaults_hold_for_enqueue_from_sql(engine: Engine) -> None:
    now = engine.stop_clock()
    assert engine.value("define_tasks", [MAIL]) == 1
    row = stored(engine, engine.enqueue("mail"))
    expected = {
        "queue": "post",
        "priority": 4,
        "max_attempts": 7,
        "max_crashes": 2,
        "timeout_ms": 30_000,
        "deadline_at": now + timedelta(minutes=10),
        "retry_delay_ms": 2_000,
        "retry_max_delay_ms": 60_000,
        "retry_multiplier": 3.0,
        "retry_jitter": 0.0,
        "is_linear": True,
        "tags": ["out"],
    }
    assert {name: row[name] for name in expected} == expected


def test_an_argument_goes_before_the_task_s_default(engine: Engine) -> None:
    engine.rows("define_tasks", [MAIL])
    row = stored(engine, engine.enqueue("mail", queue="fast", max_attempts=1, priority=0))
    assert (row["queue"], row["max_attempts"], row["priority"]) == ("fast", 1, 0)


def test_a_later_change_of_defaults_alters_no_execution(engine: Engine) -> None:
    engine.rows("define_tasks", [MAIL])
    id = engine.enqueue("mail")  # noqa: A001
    before = stored(engine, id)
    assert engine.value("define_tasks", [MAIL | {"max_attempts": 1, "queue": "elsewhere"}]) == 1
    assert stored(engine, id) == before
    assert stored(engine, engine.enqueue("mail"))["queue"] == "elsewhere"


def test_defaults_that_are_no_longer_given_are_the_engine_s_again(engine: Engine) -> None:
    engine.rows("define_tasks", [MAIL])
    engine.rows("define_tasks", [{"name": "mail"}])
    row = stored(engine, engine.enqueue("mail"))
    assert {name: row[name] for name in DEFAULTS} == DEFAULTS


def test_defining_the_same_again_changes_nothing(engine: Engine) -> None:
    engine.rows("define_tasks", [MAIL])
    before = engine.dump()
    assert engine.value("define_tasks", [MAIL]) == 0
    assert engine.dump() == before


def test_a_task_can_be_a_sleeping_one(engine: Engine) -> None:
    engine.rows("define_tasks", [{"name": "approval", "sleeping": True, "timeout": 60}])
    id = engine.enqueue("approval", "order 7")  # noqa: A001
    assert (engine.status(id), engine.get(id)["key"]) == ("sleeping", "order 7")


def test_children_take_their_task_s_defaults_too(engine: Engine) -> None:
    engine.rows("define_tasks", [MAIL])
    (child,) = engine.spawn(engine.start("parent"), ["mail"])
    assert stored(engine, child)["queue"] == "post"


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({}, "QD020"),
        ({"name": ""}, "QD020"),
        ({"name": "a\nb"}, "QD020"),
        ({"name": "t", "queue": ""}, "QD020"),
        ({"name": "t", "tags": [""]}, "QD020"),
        ({"name": "t", "timeout": -1}, "QD023"),
        ({"name": "t", "timeout": 31 * DAY}, "QD023"),
        ({"name": "t", "deadline": 0}, "QD023"),
        ({"name": "t", "deadline": "never"}, "QD023"),
        ({"name": "t", "max_attempts": 0}, "QD024"),
        ({"name": "t", "retry_jitter": 2}, "QD026"),
        ({"name": "t", "key": "k"}, "QD026"),
        ({"name": "t", "delay": 1}, "QD026"),
        ({"name": "t", "headers": {}}, "QD026"),
        ({"name": "t", "colour": "red"}, "QD026"),
        ("text", "QD020"),
        (None, "QD020"),
    ],
)
def test_a_bad_definition_is_refused_and_none_of_its_batch_is_kept(
    engine: Engine, task: Any, code: str
) -> None:
    before = engine.dump()
    with pytest.raises(psycopg.Error) as raised:
        engine.rows("define_tasks", Jsonb([{"name": "good"}, task]))
    assert raised.value.sqlstate == code
    assert engine.dump() == before


def test_a_claim_of_no_number_is_a_claim_of_one(engine: Engine) -> None:
    engine.enqueue()
    engine.enqueue()
    assert len(engine.rows("claim_ready", engine.worker, max=None)) == 1
