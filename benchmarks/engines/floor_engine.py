"""The floor: what the rooms' tables and one connection can do when nobody checks anything.

Perdure's own tables and indexes under bare SQL: no fencing, no retries, no trees, no sweeper, no
look at what is sent. One statement a batch finishes the last ones and claims the next. It is
written to be fast: prepared once, with a generic plan that is pinned as the engine pins its own;
outcomes and claims travel as arrays; bodies run while the server works, for which the concurrency
is two batches. The event loop is the standard one, as in the worker.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, LiteralString

import orjson
import psycopg
from psycopg.types.json import set_json_loads

from perdure_engine import MESSAGE, UNFINISHED, install, produce
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

PINNED = (
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off"
    " -c enable_mergejoin=off -c jit=off -c plan_cache_mode=force_generic_plan"
)
BATCH = 100
CHUNK = 1_000
IDLE = 0.5  # seconds until an idle one looks unbidden

# What is claimed is locked already, so it is deleted where it lies: by ctid.
EXCHANGE: LiteralString = """
with gone as (
  delete from perdure.running as r
  where r.id = any(%s::bigint[])
  returning r.id, r.started_at, r.worker_id, r.token, r.attempts, r.crashes, r.iteration
), done as (
  insert into perdure.finished (
    id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output
  )
  select
    g.id, g.started_at, now(), g.worker_id, g.token, g.attempts + 1, g.crashes, g.iteration,
    'completed', %s::jsonb -> (g.id::text)
  from gone as g
), taken as (
  delete from perdure.ready as r
  where r.ctid = any(array(
    select c.ctid
    from perdure.ready as c
    where c.queue = 'default' and not c.is_aside and c.shard is null
    order by c.priority, c.start_at, c.id
    limit %s
    for update skip locked
  ))
  returning r.id, r.task, r.token, r.attempts, r.crashes, r.iteration, r.is_keyed
), found as (
  select t.*, e.input, e.timeout_ms
  from taken as t
  cross join lateral (
    select x.input, x.timeout_ms from perdure.execution as x where x.id = t.id
  ) as e
), leased as (
  insert into perdure.running (
    id, started_at, expires_at, worker_id, token, attempts, crashes, iteration, is_keyed, task
  )
  select
    f.id, now(), now() + f.timeout_ms * interval '1 millisecond', 1, f.token + 1, f.attempts,
    f.crashes, f.iteration, f.is_keyed, f.task
  from found as f
)
select array_agg(f.id), array_agg(f.task), json_agg(f.input) from found as f
"""

ENQUEUE: LiteralString = """
with item as (
  select nextval('perdure.execution_id_seq') as id, %s as task, i.value as input
  from jsonb_array_elements(%s::jsonb) as i
), fact as (
  insert into perdure.execution (
    id, root_id, created_at, start_at, timeout_ms, retry_multiplier, retry_jitter, retry_delay_ms,
    retry_max_delay_ms, max_attempts, max_crashes, priority, is_linear, is_sleeping, is_finalize,
    task, queue, input
  )
  select
    i.id, i.id, now(), now(), 300000, 2, 0.1, 1000, 3600000, 1, 3, 0, false, false, false, i.task,
    'default', i.input
  from item as i
), due as (
  insert into perdure.ready (
    id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
  )
  select i.id, now(), 0, 0, 0, 0, pg_column_size(i.input), 0, false, 'default', i.task
  from item as i
)
select 1
"""
NOTIFIED: LiteralString = f"{ENQUEUE.rstrip()}, pg_notify('perdure', '{{}}')"


class Floor(Engine):
    name = "floor"

    def install(self) -> None:
        install(self.dsn)

    def describe(self) -> dict[str, Any]:
        return {
            "version": f"psycopg {psycopg.__version__}",
            "settings": {
                "session": PINNED,
                "batch": BATCH,
                "concurrency": "2 batches",
                "rows per bulk insert": CHUNK,
            },
            "unfinished": UNFINISHED,
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        if what != "noop":
            raise Unsupported("the floor knows no-ops only")
        with _connect(self.dsn) as conn, conn.cursor() as cursor:

            def insert(inputs: list[Any]) -> None:
                data = orjson.dumps(inputs).decode()
                cursor.execute(ENQUEUE, [what, data], prepare=True)

            if "seconds" in options:
                return produce(self.dsn, lambda size: insert(_inputs(size)), **options)
            inputs = _inputs(count)
            size = CHUNK if how == "bulk" else 1
            began = time.monotonic()
            with conn.transaction() if how == "transaction" else nullcontext():
                for start in range(0, count, size):
                    insert(inputs[start : start + size])
            return time.monotonic() - began

    def work(self, options: dict[str, Any]) -> None:
        """Ends by SIGTERM itself: there is nothing to hand back."""
        batch = int(options.get("batch", BATCH))
        concurrency = int(options.get("concurrency", 2 * batch))
        connections = int(options.get("connections", 1))
        if options.get("sync"):
            raise Unsupported("the floor runs coroutines")

        async def work() -> None:
            loops = (_Loop(self.dsn, batch, concurrency).run() for _ in range(connections))
            await asyncio.gather(*loops)

        asyncio.run(work())

    def sender(self) -> Callable[[], Any]:
        conn = _connect(self.dsn)
        return lambda: conn.execute(NOTIFIED, ["stamp", "[{}]"], prepare=True)


def _inputs(count: int) -> list[Any]:
    return [{"i": i, "msg": MESSAGE} for i in range(count)]


def _connect(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True, options=PINNED)


async def noop(given: Any) -> dict[str, bool]:
    begun()
    return {"ok": True}


async def stamp(given: Any) -> dict[str, bool]:
    stamped()
    return {"ok": True}


BODIES = {"noop": noop, "stamp": stamp}


class _Loop:
    """One connection that claims and finishes, and the bodies that it started."""

    def __init__(self, dsn: str, batch: int, concurrency: int) -> None:
        self.dsn = dsn
        self.batch = batch
        self.concurrency = concurrency
        self.running = 0
        self.done: list[tuple[int, str]] = []
        self.is_done = asyncio.Event()

    async def body(self, id_: int, task: str, given: Any) -> None:
        output = await BODIES[task](given)
        self.done.append((id_, orjson.dumps(output).decode()))
        self.running -= 1
        self.is_done.set()

    async def run(self) -> None:
        conn = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, options=PINNED)
        set_json_loads(orjson.loads, conn)
        await conn.execute("listen perdure")
        cursor = conn.cursor(binary=True)
        while True:
            want = min(self.batch, self.concurrency - self.running)
            done, self.done = self.done, []
            ids = "{" + ",".join([str(id_) for id_, _ in done]) + "}"
            outputs = "{" + ",".join([f'"{id_}":{output}' for id_, output in done]) + "}"
            await cursor.execute(EXCHANGE, [ids, outputs, want], prepare=True)
            claimed = await cursor.fetchone()
            assert claimed
            if claimed[0]:
                self.running += len(claimed[0])
                for one in zip(*claimed, strict=True):
                    asyncio.create_task(self.body(*one))  # noqa: RUF006  # `running` counts it
                if len(claimed[0]) == want and self.running < self.concurrency:
                    continue  # the server works on the next ones while these run
            await asyncio.sleep(0)
            if self.running and not self.done:
                self.is_done.clear()
                await self.is_done.wait()
            elif not (self.running or self.done or claimed[0]):
                async for _ in conn.notifies(timeout=IDLE, stop_after=1):
                    pass


if __name__ == "__main__":
    main(Floor)
