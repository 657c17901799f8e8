"""What is measured: W1 to W12, what they cost in memory, and the server alone.

A workload names its cases; the benchmark runs these in turn (A B A B …) and repeats that. Slow
engines get smaller sizes: rates do not depend on them. W1 to W6 are for everybody, as far as an
engine has such a thing; the others are for Perdure and the floor, with FULL=1 also for the peers
that they fit.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from rig import OWN, PATIENCE, PEERS, Database, Failed, Skipped, quantiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import ExitStack

    from rig import Engine, Figures, Rig

T = TypeVar("T")

BATCHES = (1, 10, 100, 500)
SLOW = {"procrastinate": 2_000, "chancy": 4_000, "oban": 4_000, "dbos": 1_000, "pgqueuer": 50_000}
QUEUES = tuple(name for name in PEERS if name != "dbos")  # dbos is for workflows: W3 to W5
WINDOWS = 10


class Scale(IntEnum):
    QUICK = 0
    NORMAL = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table; `measure` makes one repeat of it."""

    engine: str
    variant: str
    measure: Callable[[], Figures]
    floor: str | None = None
    """The variant of the floor that its share is of."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a workload has to do with; what `stack` holds is gone when the workload is over."""

    rig: Rig
    scale: Scale
    engines: tuple[str, ...]
    stack: ExitStack
    divisor: int = 1
    """Of all numbers of executions and seconds: a test wants to see it run, not figures."""

    def count(self, normal: int) -> int:
        return max(1, normal // self.divisor)

    def pick(self, quick: T, normal: T, full: T) -> T:
        return (quick, normal, full)[self.scale]

    def those(self, *names: str) -> list[str]:
        """Of these engines, those that were asked for."""
        return [name for name in names if name in self.engines]

    def size(self, engine: str, normal: int = 100_000) -> int:
        """How many no-ops this engine gets."""
        slow = SLOW.get(engine, normal)
        picked = self.pick(
            min(slow, normal, 10_000), min(slow, normal), max(slow, min(normal, 20_000))
        )
        return self.count(picked)


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    title: str
    cases: Callable[[Plan], Iterable[Case]]
    is_quick: bool = False
    is_once: bool = False


WORKLOADS: dict[str, Workload] = {}


def workload(
    name: str, title: str, *, is_quick: bool = False, is_once: bool = False
) -> Callable[[Callable[[Plan], Iterable[Case]]], Callable[[Plan], Iterable[Case]]]:
    def register(cases: Callable[[Plan], Iterable[Case]]) -> Callable[[Plan], Iterable[Case]]:
        WORKLOADS[name] = Workload(name, title, cases, is_quick, is_once)
        return cases

    return register


def drain(
    rig: Rig,
    engine: str,
    count: int,
    *,
    what: str = "noop",
    given: Mapping[str, Any] | None = None,
    executions: int | None = None,
    template: str | None = None,
    **how: Any,
) -> Figures:
    """Enqueues `count` of something, then has workers run it; `executions`: what that comes to."""
    executions = executions or count
    with rig.database(engine, template) as db:
        enqueued = db.enqueue(what, "bulk", count, given)
        db.settle()
        figures = db.drain(executions, **how)
        figures["wal_all_in"] = figures["wal_bytes"] + enqueued["wal_bytes"] * count / executions
        if what == "tree" and db.engine.finalized is not None:
            figures["finalized"] = float(db.ask(db.engine.finalized)) / count
        return figures


# W1 to W6: everybody ------------------------------------------------------------------------------


@workload("W1", "enqueue, one client", is_quick=True)
def w1(plan: Plan) -> Iterator[Case]:
    def measure(engine: str, how: str, count: int) -> Figures:
        with plan.rig.database(engine) as db:
            return db.enqueue("noop", how, count)

    sizes = {"one": plan.pick(600, 2_000, 5_000), "transaction": plan.pick(0, 3_000, 20_000)}
    for how in ("bulk", "one", "transaction"):
        for engine in plan.those(*OWN, *QUEUES):
            count = plan.count(sizes[how]) if how in sizes else plan.size(engine)
            if sizes.get(how, count):
                yield Case(engine, how, partial(measure, engine, how, count), floor=how)


@workload("W2", "drain of no-ops", is_quick=True)
def w2(plan: Plan) -> Iterator[Case]:
    rig = plan.rig
    batches = plan.pick((100,), BATCHES, BATCHES)
    for batch in batches:
        count = plan.size("perdure", {1: 5_000, 10: 50_000}.get(batch, 100_000))
        for engine in plan.those(*OWN):
            run = partial(drain, rig, engine, count, options={"batch": batch})
            yield Case(engine, f"batch {batch}", run, floor=f"batch {batch}")
    if plan.scale == Scale.QUICK:
        return
    for engine in plan.those(*OWN):
        run = partial(drain, rig, engine, plan.size(engine), options={"batch": 100}, processes=2)
        yield Case(engine, "batch 100, 2 processes", run, floor="batch 100, 2 processes")
    for engine in plan.those("perdure"):
        count = plan.size(engine, 50_000)
        run = partial(drain, rig, engine, count, options={"batch": 100, "sync": True})
        yield Case(engine, "batch 100, sync", run, floor="batch 100")
    for engine in plan.those(*QUEUES):
        count = plan.size(engine)
        variants: dict[str, Mapping[str, Any]] = {
            "its settings": {},
            "its settings, 2 processes": {"processes": 2},
            "its settings, sync": {"options": {"sync": True}},
        }
        if engine == "pgqueuer":
            variants["batch 100"] = {"options": {"batch": 100}}
        for variant, how in variants.items():
            yield Case(engine, variant, partial(drain, rig, engine, count, **how), "batch 100")


@workload("W3", "idle latency, commit to body", is_quick=True)
def w3(plan: Plan) -> Iterator[Case]:
    samples = {"dbos": 50} | dict.fromkeys(OWN, plan.pick(20, 200, 1_000))
    longest = plan.pick(0.03, 0.075, 0.075)

    def measure(engine: str) -> Figures:
        with plan.rig.database(engine) as db:
            return db.latency(plan.count(samples.get(engine, 100)) + 1, longest_gap=longest)

    for engine in plan.those(*OWN, *PEERS):
        yield Case(engine, "idle", partial(measure, engine), floor="idle")


@workload("W4", "fan-out and fan-in", is_quick=True)
def w4(plan: Plan) -> Iterator[Case]:
    rig = plan.rig

    def trees(engine: str, parents: int, children: int) -> Case:
        number = plan.count(children)
        run = partial(
            drain,
            rig,
            engine,
            parents,
            what="tree",
            given={"children": number, "finalize": True},
            executions=parents * (number + 2),
            every=0.002 if parents * children <= 1_000 else 0.01,
        )
        return Case(engine, f"{parents} → {children:,} → finalize", run, floor="flat 10,000")

    for engine in plan.those("perdure"):
        run = partial(_warm_tree, rig, engine, plan.count(1_000))
        yield Case(engine, "1 → 1,000 → finalize, from the call", run, floor="flat 10,000")
    if plan.scale == Scale.QUICK:
        return
    for engine in plan.those(*OWN):
        run = partial(drain, rig, engine, plan.count(10_000), options={"batch": 100})
        yield Case(engine, "flat 10,000", run, floor="flat 10,000")
    for engine in plan.those("perdure"):
        for parents, children in ((1, 1_000), (1, 10_000), (100, 50), (1, 100_000)):
            yield trees(engine, parents, children)
    for engine in plan.those("dbos"):
        for parents, children in ((1, 1_000), (plan.pick(0, 10, 100), 50)):
            yield trees(engine, parents, children)


def _warm_tree(rig: Rig, engine: str, children: int) -> Figures:
    """From just before the enqueue, by a process of its own, to the end, as a client sees it."""
    given = {"children": children, "finalize": True}
    with rig.database(engine) as db:
        worker = db.work()
        db.enqueue("tree", "bulk", 1, given)
        db.wait([worker], db.engine.unfinished)
        client = db.start_enqueue("tree", "bulk", 1, given)
        said = client.hear("seconds")
        seconds = db.wait([worker], db.engine.unfinished, every=0.002)
        seconds -= said["ended"] - said["seconds"]
        client.wait(PATIENCE)
        assert db.engine.finalized is not None
        return {
            "seconds": seconds,
            "executions": children + 2,
            "per_second": (children + 2) / seconds,
            "finalized": float(db.ask(db.engine.finalized)) / 2,
        }


@workload("W5", "chains of 10, per step")
def w5(plan: Plan) -> Iterator[Case]:
    sizes = {"perdure": 1_000, "graphile": 1_000, "pgqueuer": 1_000}
    for engine in plan.those("perdure", *PEERS):
        chains = sizes.get(engine, 100) * plan.pick(1, 1, 5)
        count = plan.count(chains)
        run = partial(drain, plan.rig, engine, count, what="chain", executions=10 * count)
        yield Case(engine, f"{chains:,} chains", run, floor="flat 10,000")
    for engine in plan.those("floor"):
        run = partial(drain, plan.rig, engine, plan.count(10_000), options={"batch": 100})
        yield Case(engine, "flat 10,000", run)


@workload("W6", "the mix of gpahal/durable-execution: 6,100 executions as that counts them")
def w6(plan: Plan) -> Iterator[Case]:
    for engine in plan.those("perdure", *PEERS):
        count = 3 * plan.count(100)
        executions = 6_100 * count // 300
        run = partial(
            drain, plan.rig, engine, count, what="mix", executions=executions, every=0.005
        )
        yield Case(engine, "mix", run, floor="flat 20,000")
    for engine in plan.those("floor"):
        run = partial(drain, plan.rig, engine, plan.count(20_000), options={"batch": 100})
        yield Case(engine, "flat 20,000", run)


# W7 to W12: Perdure and the floor -----------------------------------------------------------------

_FACT = """
insert into perdure.execution (
  id, root_id, created_at, start_at, timeout_ms, retry_multiplier, retry_jitter, retry_delay_ms,
  retry_max_delay_ms, max_attempts, max_crashes, priority, is_linear, is_sleeping, is_finalize,
  task, queue, input
)
select
  i, i, now(), now(), 300000, 2, 0.1, 1000, 3600000, 1, 3, 0, false, false, false, '{task}',
  'default', '{{"i": 1, "msg": "hello world payload"}}'
from generate_series({first}, {last}) as i
"""
_READY = """
insert into perdure.ready (
  id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
)
select i, now(), 0, 0, 0, 0, 50, 0, false, 'default', '{task}'
from generate_series({first}, {last}) as i
"""
_SCHEDULED = """
insert into perdure.scheduled (
  id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
)
select i, now() + interval '1 day', 0, 0, 0, 0, 50, 0, false, 'default', '{task}'
from generate_series({first}, {last}) as i
"""
_FINISHED = """
insert into perdure.finished (
  id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output
)
select i, now(), now(), 1, 1, 1, 0, 0, 'completed', '{{"ok": true}}'
from generate_series({first}, {last}) as i
"""
_PEERS_HISTORY = {
    "pgqueuer": """
insert into pgqueuer_log (job_id, status, priority, entrypoint)
select i, 'successful', 0, 'noop' from generate_series({first}, {last}) as i
"""
}


def fill(db: Database, room: str, count: int, task: str = "noop") -> int:
    """Executions in a room, made by the server itself; the last one's id."""
    first = int(db.ask("select last_value + is_called::int from perdure.execution_id_seq"))
    for start in range(first, first + count, 1_000_000):
        last = min(start + 1_000_000, first + count) - 1
        for statement in (_FACT, room):
            db.run(statement.format(first=start, last=last, task=task))
    last = first + count - 1
    db.run(f"select setval('perdure.execution_id_seq', {last})")
    return last


def _prepared(plan: Plan, room: str, count: int, task: str = "noop") -> str:
    """A template with so much in a room; gone with the plan's stack."""

    def prepare(db: Database) -> None:
        fill(db, room, plan.count(count), task)
        db.run("vacuum (analyze)")
        db.run("checkpoint")

    template = plan.rig.keep("perdure", prepare)
    plan.stack.callback(plan.rig.drop, template)
    return template


@workload("W7", "drain beside finished executions")
def w7(plan: Plan) -> Iterator[Case]:
    """One database for each amount of history, kept: to copy ten millions takes too long.

    Rooms are emptied before each run, and the empty one's history too: all begin alike.
    """
    count = plan.count(100_000)
    kept: dict[int, Database] = {}
    for history in (0, 1_000_000, 10_000_000) if plan.those(*OWN) else ():
        kept[history] = plan.stack.enter_context(plan.rig.database("perdure"))
        if history:
            fill(kept[history], _FINISHED, plan.count(history))
        kept[history].run("vacuum (freeze, analyze)")

    def empty(db: Database, history: int) -> None:
        db.run("truncate perdure.ready, perdure.running")
        if not history:
            db.run("truncate perdure.execution, perdure.finished")

    def run(engine: str, history: int) -> Figures:
        with _another(plan.rig.engine(engine), kept[history]) as db:
            empty(db, history)
            db.enqueue("noop", "bulk", count)
            db.settle()
            return db.drain(count)

    def claims(history: int) -> Figures:
        db = kept[history]
        batches = max(2, count // 100)
        empty(db, history)
        fill(db, _READY, 100 * batches)
        db.settle()
        return _claims(db, batches)

    names = {history: _many(history, "finished") for history in kept}
    for history, name in names.items():
        for engine in plan.those(*OWN):
            yield Case(engine, name, partial(run, engine, history), floor=name)
    for engine in plan.those("perdure"):
        for history in (min(kept), max(kept)):
            yield Case(engine, f"claims, {names[history]}", partial(claims, history))
    for engine in plan.those("pgqueuer"):
        yield from _history_of_a_peer(plan, engine)


@contextmanager
def _another(engine: Engine, kept: Database) -> Iterator[Database]:
    """The same database for another engine's program: the floor works on Perdure's tables."""
    database = Database(kept.rig, engine, kept.name)
    try:
        yield database
    finally:
        database.close()


def _many(count: int, what: str) -> str:
    return f"{count // 1_000_000} M {what}" if count else f"nothing {what}"


_EXCHANGE = "select claimed::text from perdure.exchange(%s::uuid, %s::jsonb, 100)"


@contextmanager
def _by_hand(db: Database) -> Iterator[Callable[[str | None], tuple[float, str | None]]]:
    """A worker without a loop: reports outcomes, claims a hundred; ms of that, and the claimed."""
    with psycopg.connect(db.dsn, autocommit=True) as conn, conn.cursor() as cursor:
        register = "select perdure.register_worker('by hand', tasks => '{noop}')"
        row = cursor.execute(register).fetchone()
        assert row
        worker = row[0]

        def exchange(outcomes: str | None) -> tuple[float, str | None]:
            began = time.perf_counter()
            answer = cursor.execute(_EXCHANGE, [worker, outcomes], prepare=True).fetchone()
            taken = 1000 * (time.perf_counter() - began)
            assert answer
            return taken, answer[0]

        yield exchange
        cursor.execute("select perdure.unregister_worker(%s::uuid)", [worker])


def _claims(db: Database, count: int) -> Figures:
    """Batches of 100, each with the outcomes of the one before."""
    taken = []
    outcomes = None
    with _by_hand(db) as exchange:
        for _ in range(count):
            ms, claimed = exchange(outcomes)
            if claimed is None:
                raise Failed("there was nothing to claim")
            taken.append(ms)
            done = [
                {"id": id_, "token": token, "outcome": "completed", "output": {"ok": True}}
                for id_, token, *_ in json.loads(claimed)
            ]
            outcomes = json.dumps(done)
    return {"executions": 100 * count, **quantiles(taken)}


def _idle_claims(rig: Rig, template: str | None, count: int) -> Figures:
    """Claims that find nothing, one after the other."""
    with rig.database("perdure", template) as db, _by_hand(db) as exchange:
        return {"executions": count, **quantiles([exchange(None)[0] for _ in range(count)])}


def _history_of_a_peer(plan: Plan, engine: str) -> Iterator[Case]:
    def run(history: int) -> Figures:
        with plan.rig.database(engine) as db:
            for start in range(1, history // plan.divisor + 1, 1_000_000):
                statement = _PEERS_HISTORY[engine].format(first=start, last=start + 999_999)
                db.run(statement)
            db.run("vacuum (freeze, analyze)")
            db.enqueue("noop", "bulk", plan.size(engine))
            db.settle()
            return db.drain(plan.size(engine))

    for history in plan.pick((0,), (0, 1_000_000), (0, 1_000_000, 10_000_000)):
        yield Case(engine, _many(history, "finished"), partial(run, history), "nothing finished")


@workload("W8", "drain beside a backlog")
def w8(plan: Plan) -> Iterator[Case]:
    rig = plan.rig
    window = plan.count(10_000)
    many = _prepared(plan, _READY, 1_000_000)
    later = _prepared(plan, _SCHEDULED, 1_000_000)
    unknown = _prepared(plan, _READY, 100_000, "unknown")
    for engine in plan.those(*OWN):
        run = partial(_short_line, rig, engine, window)
        yield Case(engine, "10 k ready", run, floor="10 k ready")
        run = partial(_long_line, rig, engine, window, many)
        yield Case(engine, "1 M ready", run, floor="1 M ready")
    count = plan.count(50_000)
    for variant, template in (("nothing else", None), ("1 M due tomorrow", later)):
        for engine in plan.those(*OWN):
            run = partial(drain, rig, engine, count, template=template)
            yield Case(engine, variant, run, floor=variant)
        for engine in plan.those("perdure"):
            yield Case(
                engine, f"idle claims, {variant}", partial(_idle_claims, rig, template, 1_000)
            )
    for engine in plan.those("perdure"):  # to the floor no task is unknown
        run = partial(_behind_unknown, rig, engine, count, unknown)
        yield Case(engine, "100 k unknown in front", run, floor="nothing else")


# From the first claim of a window to the last outcome in it, by the server's clock. The same
# question for a short line and for the head of a long one.
_SPANS = """
select sum(s.span)::float8
from (
  select extract(epoch from max(f.finished_at) - min(f.started_at)) as span
  from perdure.finished as f
  where f.id > {base} and f.id <= {last}
  group by (f.id - {base} - 1) / {window}
) as s
"""


def _spans(db: Database, base: int, window: int, windows: int = WINDOWS) -> Figures:
    count = windows * window
    seconds = float(db.ask(_SPANS.format(base=base, last=base + count, window=window)))
    return {"seconds": seconds, "executions": count, "per_second": count / seconds}


def _short_line(rig: Rig, engine: str, window: int) -> Figures:
    """One window at a time, for a worker that waits for it; the first one is a rehearsal."""
    with rig.database(engine) as db:
        worker = db.work({"batch": 100})
        base = last = 0
        for turn in range(WINDOWS + 1):
            last = fill(db, _READY, window)
            base = base if turn else last
            db.run("select perdure.notify_ready()")
            db.wait([worker], db.engine.unfinished)
        if last != base + WINDOWS * window:
            raise Failed("the executions' numbers are not consecutive")
        return _spans(db, base, window)


def _long_line(rig: Rig, engine: str, window: int, template: str) -> Figures:
    """The same number from the head of a million."""
    with rig.database(engine, template) as db:
        first = int(db.ask("select id from perdure.ready order by priority, start_at, id limit 1"))
        base = first - 1 + window
        beyond = base + (WINDOWS + 1) * window
        worker = db.work({"batch": 100})
        db.wait([worker], f"select not exists (select from perdure.finished where id = {beyond})")
        return _spans(db, base, window)


def _behind_unknown(rig: Rig, engine: str, count: int, template: str) -> Figures:
    with rig.database(engine, template) as db:
        db.enqueue("noop", "bulk", count)
        last = db.ask("select max(id) from perdure.execution")
        db.settle()
        until = f"select not exists (select from perdure.finished where id = {last})"
        return db.drain(count, unfinished=until)


@workload("W9", "drain beside a held snapshot")
def w9(plan: Plan) -> Iterator[Case]:
    def run(engine: str, is_held: bool) -> Figures:
        count = plan.size(engine)
        with plan.rig.database(engine) as db:
            db.enqueue("noop", "bulk", count)
            db.settle()
            until = None
            if engine in OWN:  # a look at the room passes all that the snapshot keeps
                last = db.ask("select max(id) from perdure.execution")
                until = f"select not exists (select from perdure.finished where id = {last})"
            with psycopg.connect(plan.rig.dsn(db.name), autocommit=True) as holder:
                if is_held:
                    holder.execute("begin isolation level repeatable read")
                    holder.execute("select count(*) from pg_class")
                return db.drain(count, unfinished=until)

    for variant, is_held in (("no snapshot", False), ("held snapshot", True)):
        for engine in plan.those(*OWN, *plan.pick((), (), QUEUES)):
            yield Case(engine, variant, partial(run, engine, is_held), floor=variant)


@workload("W10", "drain over many connections, in at most two processes")
def w10(plan: Plan) -> Iterator[Case]:
    def over(connections: int) -> dict[str, Any]:
        processes = min(2, connections)
        options = {"batch": 100, "connections": connections // processes}
        return {"processes": processes, "options": options}

    for connections in (1, 4, 16, 64):
        variant = f"{connections} connection{'s' * (connections > 1)}"
        count = plan.count(plan.pick(0, 100_000, 200_000))
        for engine in plan.those(*OWN):
            run = partial(_stand_ready, plan.rig, engine, count, **over(connections))
            yield Case(engine, variant, run, floor=variant)
    for engine in plan.those(*OWN):
        variant = "64 connections, from their start"
        run = partial(drain, plan.rig, engine, plan.count(50_000), **over(64))
        yield Case(engine, variant, run, floor=variant)


_ARE_CONNECTED = """
select count(*) >= {connections}
from pg_stat_activity
where datname = current_database() and backend_type = 'client backend'
  and pid <> pg_backend_pid()
"""


def _stand_ready(
    rig: Rig, engine: str, count: int, *, processes: int, options: Mapping[str, Any]
) -> Figures:
    """Work comes to connections that have worked before: without the cost of their start."""
    connections = processes * options["connections"]
    with rig.database(engine) as db:
        workers = [db.work(options) for _ in range(processes)]
        db.wait(workers, f"select not ({_ARE_CONNECTED.format(connections=connections)})")
        base = last = 0
        for size in (2 * options["batch"] * connections, count):
            base, last = last, fill(db, _READY, size)
            db.run("select perdure.notify_ready()")
            db.wait(workers, db.engine.unfinished)
        return _spans(db, base, count, windows=1)


@workload("W11", "produce and consume", is_once=True)
def w11(plan: Plan) -> Iterator[Case]:
    minutes = {"perdure": 5, "floor": plan.pick(1, 2, 5)}
    for engine in plan.those(*OWN):
        seconds = max(4, plan.count(60 * minutes[engine]))
        run = partial(_produce_and_consume, plan.rig, engine, seconds)
        yield Case(engine, f"{minutes[engine]} minutes", run, floor=f"{minutes['floor']} minutes")


def _produce_and_consume(rig: Rig, engine: str, seconds: int) -> Figures:
    """A producer that keeps up to 20,000 ahead of one worker; the server is asked once a second."""
    sizes = "select sum(pg_total_relation_size(t))::float8 from unnest('{{{}}}'::regclass[]) as t"
    rooms = sizes.format("perdure.ready,perdure.running")
    history = sizes.format("perdure.execution,perdure.finished")
    dead_rows = (
        "select sum(n_dead_tup)::float8 from pg_stat_user_tables"
        " where relname in ('ready', 'running')"
    )
    dead: list[float] = []
    with rig.database(engine) as db:
        worker = db.work()
        producer = db.start_enqueue("noop", "bulk", 0, {"seconds": seconds, "ahead": 20_000})
        worker.hear("begun", PATIENCE)
        began = time.monotonic()
        start = db.ask("select clock_timestamp()")
        before = db.written()
        half = 0.0
        while (passed := time.monotonic() - began) < seconds:
            worker.check()
            dead.append(float(db.ask(dead_rows)))
            if passed > seconds / 2 and not half:
                half = db.ask(rooms)
            time.sleep(1)
        at_end = db.ask(rooms)
        written = db.written()
        producer.wait(PATIENCE)
        db.wait([worker], db.engine.unfinished)
        minute = min(60, seconds // 2)

        def rate(since: float) -> float:
            count = db.ask(
                "select count(*) from perdure.finished"
                " where finished_at between %s + %s * interval '1 second'"
                " and %s + %s * interval '1 second'",
                *(start, since, start, since + minute),
            )
            return float(count) / minute

        total = int(db.ask("select count(*) from perdure.finished"))
        middle = len(dead) // 2
        return {
            "seconds": seconds,
            "executions": total,
            "per_second": total / seconds,
            "first_minute": rate(0),
            "last_minute": rate(seconds - minute),
            "dead_first_half": mean(dead[:middle]),
            "dead_second_half": mean(dead[middle:]),
            "dead_most": max(dead),
            "rooms_mb_at_half": half / 1e6,
            "rooms_mb_at_end": at_end / 1e6,
            "history_bytes": float(db.ask(history)) / total,
            "wal_bytes": (written.wal_bytes - before.wal_bytes) / total,
        }


@workload("W12", "claims of one: a commit for each execution")
def w12(plan: Plan) -> Iterator[Case]:
    count = plan.count(plan.pick(1_000, 5_000, 50_000))
    for engine in plan.those(*OWN, *plan.pick((), (), ("pgqueuer",))):
        options = {"batch": 1, "concurrency": 100}
        run = partial(drain, plan.rig, engine, count, options=options)
        yield Case(engine, "batch 1, concurrency 100", run, floor="batch 1, concurrency 100")


# Besides ------------------------------------------------------------------------------------------


@workload("memory", "resident memory", is_once=True)
def memory(plan: Plan) -> Iterator[Case]:
    for engine in plan.those("perdure"):
        run = partial(_busy_worker, plan.rig, engine, plan.count(10_000))
        yield Case(engine, "worker, 1,000 bodies at once", run)
        for count in (20_000, 1_000_000):
            run = partial(_streamed, plan.rig, engine, plan.count(count))
            yield Case(engine, f"client, {count:,} enqueued", run)


def _busy_worker(rig: Rig, engine: str, count: int) -> Figures:
    with rig.database(engine) as db:
        db.enqueue("pause", "bulk", count)
        db.settle()
        return db.drain(count, options={"concurrency": 1_000})


def _streamed(rig: Rig, engine: str, count: int) -> Figures:
    with rig.database(engine) as db:
        return db.enqueue("noop", "bulk", count)


@workload("server", "the server alone: pgbench, transactions of its own", is_once=True)
def server(plan: Plan) -> Iterator[Case]:
    for clients in (1, 4):
        run = partial(_pgbench, plan.rig, clients, plan.count(plan.pick(3, 10, 30)))
        yield Case("pgbench", f"{clients} client{'s' * (clients > 1)}", run)


def _pgbench(rig: Rig, clients: int, seconds: int) -> Figures:
    program = rig.binaries / "pgbench"
    if not program.exists():
        raise Skipped(f"absent: {program} is not there")
    database = rig.create("template0")
    try:
        dsn = rig.dsn(database)
        subprocess.run([program, "-i", "-q", "-s", "10", dsn], check=True, capture_output=True)
        options = f"-n -M prepared -T {seconds} -c {clients} -j {min(2, clients)}".split()
        said = subprocess.run(
            [program, *options, dsn],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        rig.drop(database)
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    if found is None:
        raise Failed(f"pgbench says no rate: {said[-200:]}")
    return {"seconds": seconds, "per_second": float(found[1])}
