"""Shards are shared out by weight among the live, healthy workers of their queue."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fix_sessions import Sessions
from fix_shards import Shards


def test_all_are_given_and_none_to_two(shards: Shards) -> None:
    shards.make(shards=64)
    assert shards.counts() == {None: 64}
    one = shards.join()
    assert shards.counts() == {one.id: 64}
    other = shards.join()
    assert set(shards.counts()) == {one.id, other.id}
    assert 20 <= shards.counts()[one.id] <= 44


def test_a_queue_that_becomes_sharded_is_shared_out_at_once(shards: Shards) -> None:
    worker = shards.join()
    shards.make(shards=4)
    assert shards.counts() == {worker.id: 4}


def test_when_a_worker_joins_only_what_it_gets_changes_hands(shards: Shards) -> None:
    shards.make(shards=200)
    members = [shards.join() for _ in range(3)]
    before = shards.owners()
    new = shards.join()
    after = shards.owners()
    assert {after[n] for n in after if after[n] != before[n]} == {new.id}
    assert 25 <= Counter(after.values())[new.id] <= 75
    shards.engine.value("unregister_worker", new.incarnation)
    shards.engine.row("sweep")
    assert shards.owners() == before
    assert {member.id for member in members} == set(before.values())


def test_a_worker_gets_shards_by_its_weight(shards: Shards) -> None:
    shards.make(shards=1000)
    light, heavy = shards.join(weight=1), shards.join(weight=3)
    assert 680 <= shards.counts()[heavy.id] <= 820
    assert shards.counts()[light.id] + shards.counts()[heavy.id] == 1000


def test_a_worker_gets_shards_of_its_queues_only(shards: Shards) -> None:
    shards.make()
    shards.make(queue="r")
    one, both = shards.join(queues=("q",)), shards.join(queues=("q", "r"))
    assert set(shards.counts()) == {one.id, both.id}
    assert shards.counts("r") == {both.id: 8}


def test_one_that_is_not_healthy_gets_none_while_others_are(shards: Shards) -> None:
    shards.make()
    one, other = shards.join(), shards.join()
    shards.engine.value("set_worker_health", one.machine_id, healthy=False)
    shards.engine.row("sweep")
    assert shards.counts() == {other.id: 8}
    shards.engine.value("set_worker_health", other.machine_id, healthy=False)
    shards.engine.row("sweep")
    assert set(shards.counts()) == {one.id, other.id}, "where none is healthy, the live ones"
    shards.engine.value("set_worker_health", one.machine_id, healthy=True)
    shards.engine.row("sweep")
    assert shards.counts() == {one.id: 8}


def test_a_dead_worker_s_shards_go_to_the_others(shards: Shards) -> None:
    shards.make()
    one, other = shards.join(), shards.join()
    shards.kill(one)
    assert shards.counts() == {other.id: 8}
    shards.kill(other)
    assert shards.counts() == {None: 8}


def test_a_frozen_worker_s_shards_go_to_the_others_in_session_mode(
    shards: Shards, sessions: Sessions
) -> None:
    """The server ends the session of a worker that says nothing for its time-to-live."""
    shards.make()
    frozen, other = shards.join(), shards.join()
    id_ = shards.one(_key_of(shards, frozen.id))
    lease = frozen.claim_one(id_)
    frozen.session.run("set idle_session_timeout = '100ms'")  # and then it is frozen
    gone = "select count(*) from pg_stat_activity where pid = %s"
    while shards.engine.one(gone, frozen.session.pid):
        shards.engine.one("select pg_sleep(0.01)")
    shards.engine.row("sweep")
    shards.engine.row("sweep")
    assert shards.counts() == {other.id: 8}
    assert other.claim_ids() == [id_]
    late = shards.engine.rows(
        "finish", other.incarnation, [{"id": id_, "token": lease.token, "outcome": "completed"}]
    )
    assert late[0]["result"] == "lost"


def test_a_frozen_worker_s_shards_go_to_the_others_in_lease_mode(shards: Shards) -> None:
    shards.make()
    frozen = shards.join(mode="lease", ttl="1 second")
    other = shards.join(mode="lease", ttl="1 hour")
    id_ = shards.one(_key_of(shards, frozen.id))
    frozen.claim_one(id_)
    shards.engine.advance(2)
    shards.engine.row("sweep")
    shards.engine.row("sweep")
    assert shards.counts() == {other.id: 8}
    assert other.claim_ids() == [id_]


def _key_of(shards: Shards, worker_id: int) -> str:
    """A key in a shard of this worker."""
    owners = shards.owners()
    return next(k for k in map(str, range(1000)) if owners[shards.shard_of(k)] == worker_id)


def test_what_is_begun_ends_at_the_old_owner_and_keeps_the_others_back(shards: Shards) -> None:
    shards.make(shards=1)
    old = shards.join()
    first, second = shards.enqueue("k", 2)
    lease = old.claim_one(first)
    shards.engine.value("set_worker_health", old.machine_id, healthy=False)
    new = shards.join()
    assert shards.owners() == {0: new.id}
    assert new.claim_ids() == []
    assert old.claim_ids() == []
    row = old.exchange([{"id": first, "token": lease.token, "outcome": "completed"}], want=5)
    assert (row["results"], row["claimed"], row["wake"]) == (None, None, True)
    assert new.claim_ids() == [second]


def test_what_is_begun_at_a_worker_that_dies_goes_on_at_the_new_owner_first(
    shards: Shards,
) -> None:
    shards.make(shards=1)
    old = shards.join()
    first, second = shards.enqueue("k", 2)
    old.claim_one(first)
    new = shards.join()
    shards.kill(old)
    lease = new.claim_one(first)
    new.complete(lease)
    assert new.claim_ids() == [second]


def test_what_waits_for_its_retry_runs_at_the_new_owner(shards: Shards) -> None:
    shards.make(shards=1)
    old = shards.join()
    first, second = shards.enqueue("k", 2, max_attempts=3)
    old.report(old.claim_one(first), "failed", delay=60)
    new = shards.join()
    shards.engine.value("unregister_worker", old.incarnation)
    shards.engine.row("sweep")
    shards.engine.advance(61)
    new.complete(new.claim_one(first))
    assert new.claim_ids() == [second]


def test_nothing_is_left_when_workers_come_and_go(shards: Shards) -> None:
    shards.make(shards=16)
    ids = [shards.one(f"k {n % 20}") for n in range(200)]
    members = [shards.join() for _ in range(2)]
    for turn in range(60):
        for member in members:
            member.complete(*member.claim(7))
        if turn % 5 == 1:
            members.append(shards.join(weight=1 + turn % 3))
        if turn % 5 == 3:
            shards.kill(members.pop(0))
    members.append(shards.join())
    while leases := [(member, member.claim(50)) for member in members]:
        for member, claimed in leases:
            member.complete(*claimed)
        if not any(claimed for _, claimed in leases):
            break
    assert shards.engine.statuses(ids) == ["completed"] * len(ids)
    assert shards.turns() == []


def test_psql_can_explain_the_assignment(shards: Shards) -> None:
    shards.make()
    one = shards.join("one")
    shards.join("two")
    rows = shards.engine.rows("shard_assignment", "q")
    assert [row["shard"] for row in rows] == list(range(8))
    assert [row["queue"] for row in rows] == ["q"] * 8
    assert {row["name"] for row in rows} == {"one", "two"}
    assert all(row["worker_id"] == row["owner_id"] for row in rows)
    assert {row["machine_id"] for row in rows if row["name"] == "one"} == {one.machine_id}
    shards.make(queue="r", shards=3)
    assert len(shards.engine.rows("shard_assignment")) == 11
    drawn = """
      select distinct on (a.shard) w.machine_id
      from perdure.shard_assignment('q') as a, perdure.worker as w
      order by a.shard, perdure._shard_score('q', a.shard, w.machine_id, w.weight) desc
    """
    assert [row["machine_id"] for row in shards.engine.query(drawn)] == [
        row["machine_id"] for row in rows
    ]


def test_the_hashes_are_the_same_everywhere(shards: Shards) -> None:
    """Were they others, keys would change their shards with an upgrade."""
    shards.make(shards=4096)
    assert shards.engine.one("select perdure._hash('perdure')") == 3_856_901_807
    assert shards.shard_of("k") == shards.engine.one("select perdure._hash('k') % 4096")
    assert shards.shard_of("ключ") == shards.engine.one("select perdure._hash('ключ') % 4096")


def test_keys_spread_evenly(shards: Shards) -> None:
    shards.make(shards=10)
    spread = Counter(shards.shard_of(f"customer {n}") for n in range(1000))
    assert set(spread) == set(range(10))
    assert max(spread.values()) < 150


def test_those_who_listen_are_told_once(shards: Shards, sessions: Sessions) -> None:
    shards.make(shards=64)
    ears = sessions.open()
    ears.run("listen perdure")
    shards.join()
    heard = [json.loads(n.payload) for n in ears.conn.notifies(timeout=5, stop_after=1)]
    assert heard == [{"event": "shards"}]
    shards.engine.row("sweep")
    assert list(ears.conn.notifies(timeout=0.05)) == []


def test_a_sweep_that_changes_nothing_writes_nothing(shards: Shards, sessions: Sessions) -> None:
    shards.make(shards=64)
    shards.join()
    shards.make(shards=8, queue="nobody's")
    shards.engine.row("sweep")
    with shards.engine.conn.transaction():
        assert shards.engine.one("select perdure._assign_shards(null)") == 0
        assert shards.engine.one("select pg_current_xact_id_if_assigned() is null")
    assert sessions


def test_after_a_restart_workers_are_let_come_back_first(shards: Shards) -> None:
    shards.make()
    one, other = shards.join(), shards.join()
    before = shards.owners()
    shards.engine.run("update perdure.config set restart_grace = '1 day'")
    shards.engine.lose_worker(one.session.conn)
    shards.engine.row("sweep")
    assert shards.owners() == before
    shards.engine.run("update perdure.config set restart_grace = '0'")
    shards.engine.row("sweep")
    assert shards.counts() == {other.id: 8}


@pytest.mark.parametrize("busy", [False, True])
def test_two_sweeps_at_once_share_out_once(shards: Shards, sessions: Sessions, busy: bool) -> None:
    shards.make()
    session = sessions.open()
    assert session.value("register_worker", "w", ["q"])
    shards.engine.run("update perdure.shard set worker_id = null, acquired_at = null, epoch = 0")
    shards.engine.run("update perdure.shard_queue set assigned_for = null")
    other = sessions.open()
    with shards.engine.conn.transaction():
        assert shards.engine.one("select perdure._assign_shards(null)") == 8
        assert other.one("select perdure._assign_shards(%s)", ["q"] if busy else None) == 0
    assert other.one("select perdure._assign_shards(null)") == 0
    epochs = shards.engine.query("select distinct epoch from perdure.shard")
    assert epochs == [{"epoch": 1}]
