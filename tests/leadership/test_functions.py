"""elect, ping, resign, guard, request_resign: what each says, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fix_sessions import Session, Sessions, done

ME, YOU = UUID(int=1), UUID(int=2)


@pytest.fixture
def sessions(db: str) -> Iterator[Sessions]:
    opened = Sessions(db)
    yield opened
    opened.close()


@pytest.fixture
def one(sessions: Sessions) -> Session:
    return sessions.open()


@pytest.fixture
def other(sessions: Sessions) -> Session:
    return sessions.open()


def elect(session: Session, holder: UUID, mode: str = "session", ttl: str = "1 s") -> Any:
    (row,) = session.rows("elect", ["news"], holder, mode, ttl)
    return row


def test_the_first_is_elected_and_the_second_is_told_that_it_is_held(
    one: Session, other: Session
) -> None:
    assert elect(one, ME) == {
        "channel": "news",
        "is_leader": True,
        "epoch": 1,
        "wait_ms": None,
        "reason": "elected",
    }
    assert elect(one, ME)["reason"] == "leader"
    assert elect(other, YOU)["reason"] == "held"
    assert one.query("select channel, is_held, epoch from perdure.leaders") == [
        {"channel": "news", "is_held": True, "epoch": 1}
    ]


def test_a_dead_leader_holds_nothing_while_the_next_one_is_being_elected(
    sessions: Sessions, one: Session, other: Session
) -> None:
    elect(one, ME)
    watch = sessions.open()
    assert watch.one("select pg_terminate_backend(%s, 60000)", one.pid)
    held = "select is_held, epoch from perdure.leaders"
    with other.conn.transaction():
        assert elect(other, YOU)["epoch"] == 2  # which has the lock, and is not committed
        assert watch.query(held) == [{"is_held": False, "epoch": 1}]
    assert watch.query(held) == [{"is_held": True, "epoch": 2}]


def test_a_channel_that_is_named_twice_has_one_election(one: Session) -> None:
    (row,) = one.rows("elect", ["news", "news"], ME)
    assert (row["epoch"], row["reason"]) == (1, "elected")
    assert elect(one, ME)["reason"] == "leader"


def test_whoever_loses_gives_the_lock_back(one: Session, other: Session) -> None:
    elect(one, ME, "lease", "1 day")
    row = elect(other, YOU)
    assert row["reason"] == "held"
    assert 86_000_000 < row["wait_ms"] <= 86_400_000
    assert other.one("select cardinality(perdure._locked_keys())") == 0


def test_whoever_is_refused_at_once_holds_nothing(one: Session, other: Session) -> None:
    is_led = "select perdure._is_led_elsewhere('lock', 'news')"
    assert one.one(is_led) is False, "nobody ever led it"
    elect(one, ME)
    assert (one.one(is_led), other.one(is_led)) == (False, True)
    assert (elect(other, YOU)["reason"], elect(one, ME)["reason"]) == ("held", "leader")
    assert one.rows("resign", ["news"], ME, [1])[0]["is_resigned"] is True
    assert other.one(is_led) is False
    assert other.one("select cardinality(perdure._locked_keys())") == 0


def test_locks_that_stack_are_given_back_whole(one: Session, other: Session) -> None:
    elect(one, ME)
    for _ in range(5):
        elect(one, ME)
    one.run(
        "select pg_advisory_lock(c.lock_namespace, -l.lock_key) from perdure.config as c,"
        " perdure.leader as l"
    )
    assert one.rows("resign", ["news"], ME, [1]) == [{"channel": "news", "is_resigned": True}]
    assert elect(other, YOU)["epoch"] == 2


def test_only_the_holder_of_this_epoch_resigns_or_is_confirmed(
    one: Session, other: Session
) -> None:
    elect(one, ME)
    for session, holder, epoch in ((one, YOU, 1), (one, ME, 0), (one, ME, 2)):
        assert session.rows("ping", ["news"], holder, [epoch])[0]["is_leader"] is False
        assert session.rows("resign", ["news"], holder, [epoch])[0]["is_resigned"] is False
    assert other.rows("ping", ["news"], ME, [1])[0]["is_leader"] is False  # not its session
    assert one.rows("ping", ["news", "unknown"], ME, [1, 1]) == [
        {"channel": "news", "is_leader": True},
        {"channel": "unknown", "is_leader": False},
    ]


def test_a_lease_lasts_its_time_and_is_renewed_by_asking_again(
    one: Session, other: Session
) -> None:
    elect(one, ME, "lease", "10 s")
    one.advance(9)
    assert elect(one, ME, "lease", "10 s")["epoch"] == 1
    one.advance(9)
    assert elect(other, YOU, "lease", "10 s")["reason"] == "held"
    one.advance(1)
    assert one.rows("ping", ["news"], ME, [1])[0]["is_leader"] is False
    assert elect(other, YOU)["epoch"] == 2
    with pytest.raises(psycopg.Error, match="epoch 1 of channel news is over") as refused:
        one.value("guard", "news", ME, 1)
    assert refused.value.sqlstate == "QD013"
    assert refused.value.diag.message_detail == "FENCED"


def test_a_renewal_that_comes_too_late_is_no_renewal(
    sessions: Sessions, one: Session, other: Session
) -> None:
    """It has read a live lease, then waits for the row while that runs out and another wins."""
    elect(one, ME, "lease", "10 s")
    with other.conn.transaction():
        other.run("select from perdure.leader for update")
        renewal = one.later(elect, one, ME, "lease", "10 s")
        sessions.await_waiting(one, renewal)
        other.run("update perdure.leader set epoch = 2, holder = %s", YOU)
    assert done(renewal)["epoch"] is None


def test_a_guard_keeps_an_election_waiting_and_no_renewal(one: Session, other: Session) -> None:
    elect(one, ME, "lease", "10 s")
    with other.conn.transaction():
        other.value("guard", "news", ME, 1)
        assert elect(one, ME, "lease", "10 s")["reason"] == "leader"
        one.run("update perdure.leader set expires_at = perdure._clock()")
        row = elect(one, YOU)
        assert (row["reason"], row["wait_ms"]) == ("busy", 20)
    assert elect(one, YOU)["epoch"] == 2


def test_a_guard_under_an_old_snapshot_fails_rather_than_believe_it(
    one: Session, other: Session
) -> None:
    elect(one, ME)
    other.run("begin isolation level repeatable read")
    other.query("select 1 from perdure.leader")
    one.rows("resign", ["news"], ME, [1])
    elect(one, YOU)
    with pytest.raises(psycopg.errors.SerializationFailure):
        other.value("guard", "news", ME, 1)
    other.run("rollback")


def test_two_who_stand_for_the_same_new_channels_do_not_deadlock(
    one: Session, other: Session
) -> None:
    channels = [f"channel {n}" for n in range(200)]
    first = one.later(one.rows, "elect", channels, ME)
    second = other.later(other.rows, "elect", channels[::-1], YOU)
    won = [[row["channel"] for row in done(call) if row["is_leader"]] for call in (first, second)]
    assert not set(won[0]) & set(won[1])


def test_an_election_that_changes_nothing_writes_nothing(one: Session, other: Session) -> None:
    elect(one, ME)
    for session, holder in ((one, ME), (other, YOU)):
        with session.conn.transaction():
            elect(session, holder)
            session.rows("ping", ["news"], holder, [1])
            assert session.one("select pg_current_xact_id_if_assigned()") is None


def test_long_names_are_told_in_full_in_as_many_notifications_as_it_takes(
    one: Session, other: Session
) -> None:
    channels = [f"{'𓀀' * 253}{n}" for n in range(10, 30)]
    other.run("listen perdure")
    one.rows("elect", channels, ME)
    one.value("request_resign", channels)
    one.rows("resign", channels, ME, [1] * 20)
    told = [json.loads(heard.payload) for heard in other.conn.notifies(timeout=1)]
    for event in ("elected", "resign_please", "released"):
        named = [one for one in told if one["event"] == event]
        assert sorted(name for one in named for name in one["channels"]) == channels
        assert {one["purpose"] for one in named} == {"lock"}


@pytest.mark.parametrize(("others", "wait_ms"), [(0, 250), (2, 750), (3, 1000), (9, 1000)])
def test_the_more_may_stand_for_a_sweep_the_longer_each_of_them_waits(
    one: Session, other: Session, others: int, wait_ms: int
) -> None:
    one.value("register_worker", "one of another queue", ["elsewhere"])
    one.rows("elect", ["news"], ME, purpose="sweep")
    one.rows("elect", ["news"], ME, purpose="lock")
    (alone,) = other.rows("elect", ["news"], YOU, purpose="sweep")
    assert (alone["reason"], alone["wait_ms"]) == ("held", None)
    for n in range(1 + others):
        other.value("register_worker", f"worker {n}", ["mail", "news"])
    (refused,) = other.rows("elect", ["news"], YOU, purpose="sweep")
    assert (refused["reason"], refused["wait_ms"]) == ("held", wait_ms)
    (of_a_lock,) = other.rows("elect", ["news"], YOU, purpose="lock")
    assert (of_a_lock["reason"], of_a_lock["wait_ms"]) == ("held", None)


def test_purposes_are_apart(one: Session) -> None:
    one.rows("elect", ["news"], ME, purpose="lock")
    (row,) = one.rows("elect", ["news"], YOU, purpose="sweep")
    assert row["is_leader"]
    assert one.value("request_resign", ["news"], "sweep") == 1
    assert one.value("request_resign", ["news", "unknown"]) == 1


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("elect(null, gen_random_uuid())", "QD020"),
        ("elect('{\"\"}', gen_random_uuid())", "QD020"),
        ("elect('{null}', gen_random_uuid())", "QD020"),
        ("elect(array[repeat('x', 256)], gen_random_uuid())", "QD020"),
        ("elect('{a}', null)", "QD026"),
        ("elect('{a}', gen_random_uuid(), 'oneshot')", "QD026"),
        ("elect('{a}', gen_random_uuid(), null)", "QD026"),
        ("elect('{a}', gen_random_uuid(), ttl => '0.01 s')", "QD026"),
        ("elect('{a}', gen_random_uuid(), ttl => null)", "QD026"),
        ("elect('{a}', gen_random_uuid(), purpose => 'world')", "QD026"),
        ("elect('{a}', gen_random_uuid(), name => '')", "QD026"),
        ("ping('{\"\"}', gen_random_uuid(), '{1}')", "QD020"),
        ("resign('{a}', gen_random_uuid(), '{1}', null)", "QD026"),
        ("request_resign('{a}', 'world')", "QD026"),
        ("guard('a', gen_random_uuid(), 1)", "QD013"),
        ("guard(null, null, null)", "QD013"),
    ],
)
def test_what_is_wrong_is_refused_with_a_code(call: str, code: str, one: Session) -> None:
    with pytest.raises(psycopg.Error) as refused:
        one.query(f"select perdure.{call}")
    assert refused.value.sqlstate == code
    assert one.query("select from perdure.leader") == []


def test_a_holder_is_not_shown(one: Session) -> None:
    holder = uuid4()
    elect(one, holder)
    assert str(holder) not in str(one.query("select * from perdure.leaders"))
