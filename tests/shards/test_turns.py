"""All executions of one shard key run one at a time, by id, whatever happens to them."""

from __future__ import annotations

import psycopg
import pytest

from fix_engine import outcome_of
from fix_sessions import Sessions
from fix_shards import Shards


def test_executions_of_one_key_run_one_at_a_time_by_id(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    ids = shards.enqueue("k", 5)
    done = []
    while leases := worker.claim(100):
        assert len(leases) == 1
        done.append(leases[0].id)
        worker.complete(*leases)
    assert done == ids


def test_keys_do_not_wait_for_one_another(shards: Shards) -> None:
    shards.make(shards=1)
    worker = shards.join()
    ids = [shards.one(f"k {n}") for n in range(20)]
    assert worker.claim_ids() == ids


def test_priority_does_not_count_among_keyed_executions(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first = shards.one("k", priority=5)
    shards.one("k", priority=-5)
    assert worker.claim_ids() == [first]


def test_a_key_of_another_queue_is_another_key(shards: Shards) -> None:
    shards.make()
    shards.make(queue="r")
    worker = shards.join(queues=("q", "r"))
    ids = [shards.one("k"), shards.one("k", queue="r")]
    assert worker.claim_ids() == ids


def test_one_that_is_delayed_and_has_not_begun_keeps_nobody_back(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    later, now = shards.one("k", delay=3600), shards.one("k")
    lease = worker.claim_one(now)
    shards.engine.advance(3601)
    worker.complete(lease)
    assert worker.claim_ids() == [later]


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "again", "released"])
def test_one_that_goes_on_keeps_its_turn(shards: Shards, outcome: str) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.enqueue("k", 2, max_attempts=3)
    lease = worker.claim_one(first)
    delay = {} if outcome == "released" else {"delay": 60}
    assert worker.report(lease, outcome, **delay) == "recorded"
    if outcome != "released":
        assert worker.claim_ids() == []
        shards.engine.advance(61)
    worker.complete(worker.claim_one(first))
    assert worker.claim_ids() == [second]


@pytest.mark.parametrize("outcome", ["failed", "timed_out", "again"])
def test_with_skip_the_next_one_passes_meanwhile(shards: Shards, outcome: str) -> None:
    shards.make(on_retry="skip")
    worker = shards.join()
    first, second = shards.enqueue("k", 2, max_attempts=3)
    lease = worker.claim_one(first)
    assert worker.claim_ids() == []
    assert worker.report(lease, outcome, delay=60) == "recorded"
    lease = worker.claim_one(second)
    shards.engine.advance(61)
    assert worker.claim_ids() == [], "and then the first one waits for the second"
    worker.complete(lease)
    assert worker.claim_ids() == [first]


def test_with_skip_one_handed_back_is_still_the_oldest(shards: Shards) -> None:
    shards.make(on_retry="skip")
    worker = shards.join()
    first, _ = shards.enqueue("k", 2)
    assert worker.report(worker.claim_one(first), "released") == "recorded"
    assert worker.claim_ids() == [first]


def test_a_crash_keeps_the_turn(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.enqueue("k", 2)
    worker.claim_one(first)
    shards.kill(worker)
    other = shards.join()
    other.complete(other.claim_one(first))
    assert other.claim_ids() == [second]


def test_a_crash_with_skip_gives_the_turn_back(shards: Shards) -> None:
    shards.make(on_retry="skip")
    worker = shards.join()
    first, second = shards.enqueue("k", 2)
    worker.claim_one(first)
    shards.kill(worker)
    assert shards.turns() == []
    other = shards.join()
    other.complete(other.claim_one(first))
    assert other.claim_ids() == [second]


@pytest.mark.parametrize("on_retry", ["hold", "skip"])
def test_a_parent_that_waits_for_its_children(shards: Shards, on_retry: str) -> None:
    shards.make(on_retry=on_retry)
    worker = shards.join()
    first, second = shards.enqueue("k", 2)
    lease = worker.claim_one(first)
    child = {"task": "child", "queue": "q"}
    assert worker.report(lease, "spawned", children=[child]) == "recorded"
    leases = worker.claim(100)
    begun = {lease.task: lease for lease in leases}
    assert (second in {lease.id for lease in leases}) == (on_retry == "skip")
    assert begun["child"].extra.get("shard_key") is None, "a child inherits no key"
    worker.complete(begun["child"])
    assert shards.engine.status(first) == "completed"
    assert (second in worker.claim_ids()) == (on_retry == "hold")


def test_the_end_of_a_parent_wakes_the_owner_of_its_key(shards: Shards) -> None:
    """Told by the exchange that ended the parent's last child."""
    shards.make()
    worker = shards.join()
    other = shards.join(queues=("others",))
    first, second = shards.enqueue("k", 2)
    child = {"task": "child", "queue": "others"}
    worker.report(worker.claim_one(first), "spawned", children=[child])
    assert worker.claim_ids() == []
    (lease,) = other.claim()
    assert other.exchange([outcome_of(lease, "completed")])["wake"]
    assert worker.claim_ids() == [second]


def test_children_may_have_keys_of_their_own(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first = shards.one("k")
    items = [{"task": "child", "queue": "q", "shard_key": "other"}] * 2
    assert worker.report(worker.claim_one(first), "spawned", children=items) == "recorded"
    for _ in items:
        (lease,) = worker.claim(100)
        assert lease.extra["shard_key"] == "other"
        worker.complete(lease)
    assert shards.engine.status(first) == "completed"


@pytest.mark.parametrize("on_retry", ["hold", "skip"])
def test_a_child_that_would_wait_for_its_own_ancestor_is_refused(
    shards: Shards, on_retry: str
) -> None:
    shards.make(on_retry=on_retry)
    worker = shards.join()
    first = shards.one("k")
    middle = {"task": "middle", "queue": "q"}
    worker.report(worker.claim_one(first), "spawned", children=[middle])
    (lease,) = worker.claim(100)
    item = {"task": "child", "queue": "q", "shard_key": "k"}
    result = worker.report(lease, "spawned", children=[{"task": "a", "queue": "q"}, item])
    if on_retry == "skip":
        assert result == "recorded"
        assert len(worker.claim(100)) == 2
    else:
        assert result == "failed"
        error = shards.engine.get(lease.id)["error"]
        assert error["code"] == "QD027"
        assert "child 1" in error["message"]


@pytest.mark.parametrize("sequential", [False, True])
def test_no_finalize_has_a_shard_key(shards: Shards, sequential: bool) -> None:
    shards.make()
    worker = shards.join()
    lease = worker.claim_one(shards.one("k"))
    finalize = {"task": "f", "queue": "q", "shard_key": "other"}
    child = {"task": "c", "queue": "q"}
    result = worker.report(
        lease, "spawned", children=[child], finalize=finalize, sequential=sequential
    )
    assert result == "failed"


def test_steps_of_a_sequence_may_have_a_shard_key(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    lease = worker.claim_one(shards.one("k"))
    steps = [{"task": "s", "queue": "q", "shard_key": "step"}] * 3
    worker.report(lease, "spawned", children=steps, sequential=True)
    for _ in steps:
        (step,) = worker.claim(100)
        worker.complete(step)
    assert shards.engine.status(lease.id) == "completed"


@pytest.mark.parametrize("state", ["ready", "held", "running", "retrying", "waiting"])
def test_a_cancel_lets_the_next_one_pass(shards: Shards, state: str) -> None:
    shards.make()
    worker = shards.join()
    first, second, third = shards.enqueue("k", 3, max_attempts=3)
    expected = second
    if state != "ready":
        lease = worker.claim_one(first)
    if state == "held":
        assert shards.engine.value("cancel", second) == "cancelled"
        worker.complete(lease)
        expected = third
    else:
        if state == "retrying":
            worker.report(lease, "failed", delay=3600)
        elif state == "waiting":
            worker.report(lease, "spawned", children=[{"task": "c", "queue": "elsewhere"}])
        assert shards.engine.value("cancel", first) == "cancelled"
    assert worker.claim_ids() == [expected]


def test_one_that_came_into_the_line_and_is_cancelled_there_is_followed_by_the_next(
    shards: Shards,
) -> None:
    shards.make()
    worker = shards.join()
    first, second, third = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    worker.complete(lease)
    assert shards.held() == [third]
    shards.engine.value("cancel", second)
    assert shards.held() == []
    assert worker.claim_ids() == [third]


@pytest.mark.parametrize("on_retry", ["hold", "skip"])
@pytest.mark.parametrize("is_in_line", [False, True])
def test_a_new_one_does_not_pass_the_next_while_somebody_is_at_that(
    shards: Shards, sessions: Sessions, on_retry: str, is_in_line: bool
) -> None:
    """The next one is locked by a cancel, which is taken back, when the turn falls free."""
    shards.make(on_retry=on_retry)
    worker = shards.join()
    first, second, third = shards.enqueue("k", 3)
    lease = worker.claim_one(first)
    held = second
    if is_in_line:  # without a turn as yet
        worker.complete(lease)
        held = third
    other = sessions.open()
    with other.conn.transaction(force_rollback=True):
        other.one("select id from perdure.ready where id = %s for update", held)
        if is_in_line:
            shards.engine.value("cancel", second)
        else:
            worker.complete(lease)
        shards.one("k")
        assert worker.claim_ids() == []
    shards.engine.run("update perdure.closing set due_at = now()")
    shards.engine.row("sweep")
    assert worker.claim_ids() == [held]


def test_a_new_one_passes_nobody_although_the_turn_could_not_be_kept(
    shards: Shards, sessions: Sessions
) -> None:
    """The same, while a claim is at work on the shard: closing owes it to call the next one."""
    shards.make()
    worker = shards.join()
    first, second, third = shards.enqueue("k", 3)
    worker.complete(worker.claim_one(first))
    assert shards.held() == [third]
    claiming, locking = sessions.open(), sessions.open()
    with (
        claiming.conn.transaction(force_rollback=True),
        locking.conn.transaction(force_rollback=True),
    ):
        claiming.run("select from perdure.shard for key share")
        locking.one("select id from perdure.ready where id = %s for update", third)
        shards.engine.value("cancel", second)
        assert (shards.turns(), shards.held()) == ([], [third])
        new = shards.one("k")
        assert worker.claim_ids() == []
    claimed = worker.claim_ids() or worker.claim_ids()  # the first one calls it
    assert claimed == [third]
    assert shards.held() == [new]


@pytest.mark.parametrize("begun", [False, True])
def test_a_deadline_lets_the_next_one_pass(shards: Shards, begun: bool) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.one("k", deadline=60), shards.one("k")
    if begun:
        worker.claim_one(first)
        assert worker.claim_ids() == []
    shards.engine.run("update perdure.deadline set at = now() - interval '1 s'")
    shards.engine.row("sweep")
    assert shards.engine.status(first) == "timed_out"
    assert worker.claim_ids() == [second]


def test_an_overdue_attempt_that_was_the_last_lets_the_next_one_pass(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.one("k", timeout=1), shards.one("k")
    worker.claim_one(first)
    assert worker.claim_ids() == []
    shards.engine.advance(2)
    shards.engine.row("sweep")
    assert worker.claim_ids() == [second]


def test_a_redriven_one_stands_in_line_again(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first, second, third = shards.enqueue("k", 3)
    worker.complete(worker.claim_one(first))
    lease = worker.claim_one(second)
    shards.engine.value("retry_finished", first)
    assert worker.claim_ids() == []
    worker.complete(lease)
    worker.complete(worker.claim_one(first))
    assert worker.claim_ids() == [third]


def test_one_whose_facts_are_gone_gives_its_turn_back(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.enqueue("k", 2)
    shards.engine.run("delete from perdure.execution where id = %s", first)
    assert worker.claim_ids() == []
    assert shards.engine.one("select status from perdure.finished where id = %s", first) == "failed"
    shards.engine.row("sweep")
    assert worker.claim_ids() == [second]


def test_keyed_and_plain_executions_of_one_queue_do_not_starve_one_another(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    plain = [shards.engine.enqueue(queue="q") for _ in range(30)]
    keyed = [shards.one(f"k {n}") for n in range(30)]
    got = worker.claim_ids(20)
    assert len(got) == 20
    assert len(set(got) & set(plain)) == len(set(got) & set(keyed)) == 10
    rest = worker.claim_ids(100)
    assert sorted(got + rest) == plain + keyed
    for _ in range(20):
        shards.engine.enqueue(queue="q")
        shards.one("another")
    kinds = {lease.extra.get("shard_key") for _ in range(30) for lease in worker.claim(1)}
    assert kinds == {None, "another"}, "also one by one"


@pytest.mark.parametrize("kind", ["plain", "keyed"])
def test_a_claim_of_one_kind_is_filled_up(shards: Shards, kind: str) -> None:
    shards.make()
    worker = shards.join()
    for n in range(20):
        if kind == "plain":
            shards.engine.enqueue(queue="q")
        else:
            shards.one(f"k {n}")
    assert len(worker.claim_ids(20)) == 20


def test_the_cursor_of_the_common_line_is_not_moved_by_keyed_ones(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    plain = [shards.engine.enqueue(queue="q") for _ in range(4)]
    keyed = [shards.one(f"k {n}") for n in range(4)]
    first = worker.exchange(want=4)
    assert len(first["claimed"]) == 4
    second = worker.exchange(want=100, after=first["next_after"])
    assert sorted(row[0] for row in first["claimed"] + second["claimed"]) == plain + keyed


def test_claims_stop_at_the_byte_budget(shards: Shards) -> None:
    shards.make()
    shards.engine.run("update perdure.config set claim_bytes = 250000")
    worker = shards.join()
    for n in range(4):
        shards.one(f"k {n}", input="x" * 100_000)
    assert [len(worker.claim_ids()) for _ in range(3)] == [3, 1, 0]


def test_an_unknown_task_is_stepped_over_and_then_set_aside(shards: Shards) -> None:
    shards.make()
    worker = shards.join(tasks=["known"])
    foreign, known = shards.one("k", task="foreign"), shards.one("k", task="known")
    lease = worker.claim_one(known)
    assert shards.engine.row("sweep")["moved"] == 1
    aside = shards.engine.query("select id from perdure.ready where is_aside")
    assert aside == [{"id": foreign}]
    worker.complete(lease)
    assert worker.claim_ids() == []
    shards.engine.value("unregister_worker", worker.incarnation)
    expert = shards.join()
    assert expert.claim_ids() == [foreign]


def test_one_that_is_set_aside_keeps_none_of_its_key_back(shards: Shards) -> None:
    """It had come into the line for others; now they come."""
    shards.make()
    worker = shards.join()
    first = shards.one("k", task="known")
    foreign, known = shards.one("k", task="foreign"), shards.one("k", task="known")
    lease = worker.claim_one(first)
    worker.complete(lease)
    assert shards.held() == [known]
    shards.engine.value("unregister_worker", worker.incarnation)
    other = shards.join(tasks=["known"])
    assert shards.engine.query("select id from perdure.ready where is_aside") == [{"id": foreign}]
    assert other.claim_ids() == [known]


def test_a_setting_that_changes_holds_from_then_on(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first, second = shards.enqueue("k", 2, max_attempts=3)
    lease = worker.claim_one(first)
    shards.make(on_retry="skip")
    worker.report(lease, "failed", delay=3600)
    assert worker.claim_ids() == [second]


# Asking for it ---------------------------------------------------------------------------------


def test_a_shard_key_needs_a_sharded_queue(shards: Shards) -> None:
    with pytest.raises(psycopg.Error, match=r"call perdure.shard_queue first") as caught:
        shards.engine.enqueue(queue="q", shard_key="k")
    assert caught.value.sqlstate == "QD026"
    rows = shards.engine.rows(
        "enqueue_many",
        [{"task": "t", "shard_key": "k"}, {"task": "t"}, {"task": "t", "queue": "q"}],
    )
    assert [row["code"] for row in rows] == ["QD026", None, None]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"shard_key": ""}, "QD020"),
        ({"shard_key": "k" * 256}, "QD020"),
        ({"shard_key": "a\nb"}, "QD020"),
        ({"shard_key": 7}, "QD021"),
        ({"shard_key": "k", "sleeping": True, "key": "s"}, "QD026"),
    ],
)
def test_a_shard_key_is_a_name(shards: Shards, fields: dict[str, object], code: str) -> None:
    shards.make()
    (row,) = shards.engine.rows("enqueue_many", [{"task": "t", "queue": "q", **fields}])
    assert row["code"] == code


def test_a_task_cannot_have_a_shard_key_by_default(shards: Shards) -> None:
    with pytest.raises(psycopg.Error, match="belong to one execution"):
        shards.engine.value("define_tasks", [{"name": "t", "shard_key": "k"}])


def test_a_key_and_a_shard_key_go_together(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    first = shards.one("k", key="a")
    second = shards.one("k", key="b")
    assert shards.one("k", key="a") == first
    worker.complete(worker.claim_one(first))
    assert shards.one("k", key="a") != first
    assert worker.claim_ids() == [second]


def test_people_and_bodies_see_the_shard_key(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    id_ = shards.one("k")
    assert shards.engine.get(id_)["shard_key"] == "k"
    assert worker.claim_one(id_).extra == {"queue": "q", "shard_key": "k"}
    assert shards.engine.get(shards.engine.enqueue())["shard_key"] is None


# The number of shards --------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ready", "held", "aside", "scheduled", "running", "retrying"])
def test_the_number_stays_while_keyed_executions_live(shards: Shards, state: str) -> None:
    shards.make()
    engine = shards.engine
    if state == "scheduled":
        shards.one("k", delay=3600)
    elif state == "ready":
        shards.one("k")
    elif state == "aside":
        shards.join(tasks=["other"])
        shards.one("k")
        engine.row("sweep")
        assert engine.one("select is_aside from perdure.ready")
    else:
        worker = shards.join()
        ids = shards.enqueue("k", 2 if state == "held" else 1, max_attempts=2)
        lease = worker.claim_one(ids[0])
        if state == "retrying":
            worker.report(lease, "failed", delay=3600)
        elif state == "held":
            assert worker.claim_ids() == []
            engine.run("delete from perdure.turn")
            engine.run("delete from perdure.running")
    for call, given in (("shard_queue", ("q", 9)), ("unshard_queue", ("q",))):
        with pytest.raises(psycopg.Error) as caught:
            engine.value(call, *given)
        assert caught.value.sqlstate == "QD011"
    engine.value("shard_queue", "q", shards=8, on_retry="skip")
    if state == "held":
        engine.run("delete from perdure.ready")
        engine.run("delete from perdure.execution")


@pytest.mark.parametrize("number", [1, 3, 20])
def test_the_number_changes_when_they_have_ended(shards: Shards, number: int) -> None:
    shards.make()
    worker = shards.join()
    worker.complete(worker.claim_one(shards.one("k")))
    shards.engine.enqueue(queue="q")
    shards.make(shards=number)
    assert list(shards.owners()) == list(range(number))
    assert shards.counts() == {worker.id: number}
    ids = [shards.one(f"k {n}") for n in range(10)]
    assert set(worker.claim_ids()) >= set(ids)


def test_a_queue_is_an_ordinary_one_again(shards: Shards) -> None:
    shards.make()
    assert shards.engine.value("unshard_queue", "q") is True
    assert shards.engine.value("unshard_queue", "q") is False
    assert shards.owners() == {}


def test_what_ended_in_a_queue_that_is_sharded_no_more_cannot_run_again(shards: Shards) -> None:
    shards.make()
    worker = shards.join()
    id_ = shards.one("k")
    worker.complete(worker.claim_one(id_))
    shards.engine.value("unshard_queue", "q")
    with pytest.raises(psycopg.Error) as caught:
        shards.engine.value("retry_finished", id_)
    assert caught.value.sqlstate == "QD026"
    shards.make(shards=3)
    shards.engine.value("retry_finished", id_)
    assert worker.claim_ids() == [id_]


@pytest.mark.parametrize(
    "given",
    [("", 8), ("q", 0), ("q", 4097), ("q", 8, "wait"), ("q", None), ("q", 8, None)],
)
def test_settings_have_their_ranges(shards: Shards, given: tuple[object, ...]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        shards.engine.value("shard_queue", *given)
    assert caught.value.sqlstate == ("QD020" if given[0] == "" else "QD026")
