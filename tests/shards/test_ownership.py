"""Acquire, refresh, release, guard: who owns a shard, and in which epoch."""

from __future__ import annotations

import psycopg
import pytest

from fix_engine import Engine
from fix_server import Server
from fix_sessions import Sessions, done
from fix_shards import Shards


def test_acquired_again_is_granted_again(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    worker = shards.join()
    assert shards.counts() == {None: 4}, "nobody is given any"
    epochs = worker.acquire([1, 2, 3])
    assert list(epochs) == [1, 2, 3]
    assert worker.acquire([1, 2, 3]) == epochs
    assert worker.refresh([1, 2, 3]) == [1, 2, 3]


def test_only_what_was_asked_for_is_granted(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    worker = shards.join()
    worker.acquire([1, 2])
    assert list(worker.acquire([3])) == [3]
    assert list(worker.acquire([0, 4, 99, -1])) == [0]
    assert worker.acquire([]) == {}


def test_two_workers_never_have_the_same_shard(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    assert list(one.acquire([0, 1])) == [0, 1]
    assert list(other.acquire([0, 1, 2])) == [2]
    assert other.refresh([0, 1, 2]) == [2]


def test_two_that_ask_at_once_get_different_ones(shards: Shards) -> None:
    shards.make(shards=64, rebalance=False)
    members = [shards.join() for _ in range(3)]
    numbers = list(range(64))
    calls = [member.session.later(member.acquire, numbers) for member in members]
    got = [number for call in calls for number in done(call)]
    assert len(got) == len(set(got))
    rest = [number for member in members for number in member.acquire(numbers)]
    assert sorted(rest) == numbers


def test_one_that_is_changing_hands_is_not_waited_for(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    with one.session.conn.transaction():
        one.acquire([0])
        assert list(other.acquire([0, 1])) == [1]


def test_queues_do_not_know_one_another_s_shards(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    shards.make(4, queue="r", rebalance=False)
    one, other = shards.join(queues=("q", "r")), shards.join(queues=("q", "r"))
    assert list(one.acquire([1])) == [1]
    assert list(other.acquire([1], queue="r")) == [1]


def test_g10_another_database_is_another_namespace(shards: Shards, server: Server) -> None:
    """Advisory locks and rows are of one database: numbers may be the same."""
    with server.database(server.template) as dsn:
        opened = Sessions(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            there = Shards(Engine(conn), opened)
            for place in (shards, there):
                place.make(4, rebalance=False)
            one, other = shards.join(), there.join()
            assert (one.id, one.machine_id) == (other.id, other.machine_id) == (1, 1)
            assert list(one.acquire([1])) == list(other.acquire([1])) == [1]
            shards.kill(one)
            assert other.refresh([1]) == [1]
            assert there.engine.one("select is_alive from perdure.workers")
            assert shards.join().acquire([1]) == {1: 2}
            assert there.engine.rows("fsck") == []
        opened.close()


def test_a_released_shard_is_free_and_its_epoch_rises(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    epochs = one.acquire([0, 1, 2])
    assert one.session.value("release_shards", one.incarnation, "q", [1, 3]) == 1
    assert one.refresh([0, 1, 2]) == [0, 2]
    assert other.acquire([1])[1] > epochs[1]
    assert other.session.value("release_shards", other.incarnation, "q", [0]) == 0


def test_all_are_released_of_all_queues(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    shards.make(4, queue="r", rebalance=False)
    worker = shards.join(queues=("q", "r"))
    worker.acquire([0, 1])
    worker.acquire([2], queue="r")
    assert worker.session.value("release_all_shards", worker.incarnation) == 3
    assert worker.session.value("release_all_shards", worker.incarnation) == 0
    assert shards.counts() == shards.counts("r") == {None: 4}


def test_a_dead_worker_s_shard_is_granted_and_the_loss_reported(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    epochs = one.acquire([0, 1])
    shards.engine.lose_worker(one.session.conn)
    assert other.acquire([0])[0] == epochs[0] + 1
    again = shards.engine.rows("refresh_shards", one.incarnation, "q", [0, 1, 9])
    assert [(row["number"], row["is_held"]) for row in again] == [(0, False), (1, True), (9, False)]


@pytest.mark.parametrize("call", ["acquire_shards", "refresh_shards", "release_shards"])
def test_an_unknown_worker_is_refused(shards: Shards, call: str) -> None:
    shards.make(4, rebalance=False)
    with pytest.raises(psycopg.Error) as caught:
        shards.engine.rows(call, "00000000-0000-0000-0000-000000000000", "q", [1])
    assert caught.value.sqlstate == "QD007"


@pytest.mark.parametrize("queue", ["other", "plain"])
def test_another_s_queue_and_one_without_shards_are_refused(shards: Shards, queue: str) -> None:
    shards.make(4, rebalance=False)
    shards.make(queue="other")
    worker = shards.join(queues=("q", "plain"))
    for call in ("acquire_shards", "release_shards"):
        with pytest.raises(psycopg.Error) as caught:
            worker.session.rows(call, worker.incarnation, queue, [1])
        assert caught.value.sqlstate == "QD026"


def test_without_numbers_the_assigned_ones_are_acquired(shards: Shards) -> None:
    shards.make(shards=16, rebalance=False)
    one, other = shards.join(), shards.join()
    assigned = {
        row["shard"]: row["worker_id"] for row in shards.engine.rows("shard_assignment", "q")
    }
    assert list(one.acquire()) == [n for n, id_ in assigned.items() if id_ == one.id]
    assert list(other.acquire()) == [n for n, id_ in assigned.items() if id_ == other.id]


def test_of_a_queue_that_is_rebalanced_only_the_assigned_ones_are_granted(shards: Shards) -> None:
    shards.make(shards=16)
    one, _ = shards.join(), shards.join()
    mine = [number for number, id_ in shards.owners().items() if id_ == one.id]
    assert list(one.acquire(list(range(16)))) == mine
    assert one.session.value("release_all_shards", one.incarnation) == len(mine)
    shards.engine.row("sweep")
    assert one.refresh(mine) == mine, "and the next sweep shares out what was released"


def test_only_the_owner_claims_from_a_shard(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    id_ = shards.one("k")
    number = shards.shard_of("k")
    assert one.claim_ids() == other.claim_ids() == []
    other.acquire([number])
    assert one.claim_ids() == []
    assert other.claim_ids() == [id_]


# Guarded writes --------------------------------------------------------------------------------


def test_a_guard_lets_the_owner_pass_in_its_epoch_only(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    epoch = one.acquire([1])[1]
    one.session.value("guard_shard", one.incarnation, "q", 1, epoch)
    for incarnation, number, at in (
        (one.incarnation, 1, epoch - 1),
        (one.incarnation, 1, epoch + 1),
        (one.incarnation, 2, epoch),
        (other.incarnation, 1, epoch),
    ):
        with pytest.raises(psycopg.Error) as caught:
            shards.engine.value("guard_shard", incarnation, "q", number, at)
        assert caught.value.sqlstate == "QD014"


def test_an_old_owner_s_writes_are_refused_also_when_it_owns_the_shard_again(
    shards: Shards,
) -> None:
    shards.make(4, rebalance=False)
    one, other = shards.join(), shards.join()
    epoch = one.acquire([1])[1]
    one.session.value("release_shards", one.incarnation, "q", [1])
    other.acquire([1])
    other.session.value("release_shards", other.incarnation, "q", [1])
    assert one.acquire([1])[1] > epoch
    with pytest.raises(psycopg.Error) as caught:
        one.session.value("guard_shard", one.incarnation, "q", 1, epoch)
    assert caught.value.sqlstate == "QD014"


def test_a_shard_does_not_change_hands_under_a_guard(shards: Shards) -> None:
    shards.make(shards=1)
    one = shards.join(weight=1)
    (epoch,) = one.acquire().values()
    with one.session.conn.transaction():
        one.session.value("guard_shard", one.incarnation, "q", 0, epoch)
        shards.engine.value("set_worker_health", one.machine_id, healthy=False)
        other = shards.join()
        assert shards.owners() == {0: one.id}, "the sweep did not wait"
        assert other.acquire([0]) == {}
    shards.engine.row("sweep")
    assert shards.owners() == {0: other.id}


def test_a_release_waits_for_what_is_guarded(shards: Shards, sessions: Sessions) -> None:
    shards.make(4, rebalance=False)
    one = shards.join()
    epoch = one.acquire([1])[1]
    writer = sessions.open()
    with writer.conn.transaction():
        writer.value("guard_shard", one.incarnation, "q", 1, epoch)
        call = one.session.later(one.session.value, "release_all_shards", one.incarnation)
        sessions.await_waiting(one.session, call)
    assert done(call) == 1


def test_a_guard_waits_for_an_assignment_and_is_refused_then(
    shards: Shards, sessions: Sessions
) -> None:
    shards.make(shards=1)
    one = shards.join()
    (epoch,) = one.acquire().values()
    shards.engine.run("update perdure.worker set is_healthy = false")
    other = sessions.open()
    with other.conn.transaction():
        assert other.value("register_worker", "other", ["q"])
        call = one.session.later(one.session.value, "guard_shard", one.incarnation, "q", 0, epoch)
        sessions.await_waiting(one.session, call)
    with pytest.raises(psycopg.Error) as caught:
        done(call)
    assert caught.value.sqlstate == "QD014"


def test_shards_are_not_removed_under_a_guard(shards: Shards) -> None:
    shards.make(4, rebalance=False)
    one = shards.join()
    epoch = one.acquire([3])[3]
    with one.session.conn.transaction():
        one.session.value("guard_shard", one.incarnation, "q", 3, epoch)
        with pytest.raises(psycopg.Error, match="in use") as caught:
            shards.make(shards=2)
        assert caught.value.sqlstate == "QD011"
    shards.make(shards=2)


def test_people_see_who_owns_what(shards: Shards) -> None:
    shards.make(shards=2)
    worker = shards.join("one")
    id_ = shards.one("k")
    rows = shards.engine.query("select * from perdure.shards where queue = 'q' order by number")
    assert [(row["number"], row["machine_id"], row["name"]) for row in rows] == [
        (0, worker.machine_id, "one"),
        (1, worker.machine_id, "one"),
    ]
    assert [row["next_id"] for row in rows if row["next_id"]] == [id_]
