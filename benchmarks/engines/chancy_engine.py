"""Chancy with its executor for coroutines and eager polling. See `protocol`."""

from __future__ import annotations

import asyncio
import logging
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg
from chancy import Chancy, Job, Queue, Worker
from psycopg.rows import dict_row

from inputs import BULK, SETTINGS, STEPS, inputs
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY = 500
THREADS = 50
FLUSH = 0.1  # seconds between two writes of outcomes

# Between these two, in the order of the index, lie all states of a job that has not ended.
UNFINISHED = """
select (
  select j.state
  from chancy_jobs as j
  where j.queue = 'default' and j.state between 'pending' and 'running'
  order by j.state
  limit 1
) is not null
"""


async def noop(*, i: int, msg: str) -> dict[str, bool]:
    begun()
    return {"ok": True}


def noop_sync(*, i: int, msg: str) -> dict[str, bool]:
    begun()
    return {"ok": True}


async def stamp() -> None:
    stamped()


async def chain(*, step: int) -> None:
    begun()
    if step < STEPS:
        await _running.push(_job("chain", {"step": step + 1}))


_running: Chancy  # the worker's, for bodies that enqueue


class ChancyEngine(Engine):
    name = "chancy"

    def install(self) -> None:
        async def install() -> None:
            async with _chancy(self.dsn) as chancy:
                await chancy.migrate()

        asyncio.run(install())

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("chancy"),
            "settings": {
                "executor": f"asyncio, {CONCURRENCY}; synchronous bodies: {THREADS} threads",
                "eager_polling": True,
                "send_outgoing_interval": FLUSH,
                **SETTINGS,
            },
            "unfinished": UNFINISHED,
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        jobs = [_job(what, each) for each in inputs(what, count)]
        with (
            _chancy(self.dsn) as chancy,
            psycopg.connect(self.dsn) as conn,
            conn.cursor(row_factory=dict_row) as cursor,
        ):
            chancy.sync_pool.open(wait=True)
            began = time.monotonic()
            match how:
                case "one":
                    for job in jobs:
                        chancy.sync_push(job)
                case "bulk":
                    for _ in chancy.sync_push_many(jobs, batch_size=BULK):
                        pass
                case "transaction":
                    for job in jobs:
                        chancy.sync_push_many_ex(cursor, [job])
                    conn.commit()
                case _:
                    raise Unsupported(how)
            return time.monotonic() - began

    def work(self, options: dict[str, Any]) -> None:
        if options.get("sync"):
            globals()["noop"] = noop_sync  # jobs name their function: it is looked up at each run
        asyncio.run(_work(self.dsn, options))

    def sender(self) -> Callable[[], Any]:
        chancy = _chancy(self.dsn)
        chancy.sync_pool.open(wait=True)
        return lambda: chancy.sync_push(_job("stamp", {}))


def _chancy(dsn: str) -> Chancy:
    return Chancy(dsn, log=logging.getLogger(__name__))  # its own would tell of every job


def _job(name: str, kwargs: dict[str, Any]) -> Job:
    return Job(func=f"{__name__}.{name}", kwargs=kwargs)


async def _work(dsn: str, options: dict[str, Any]) -> None:
    global _running
    executor, concurrency = (
        (Chancy.Executor.Threaded, THREADS)
        if options.get("sync")
        else (Chancy.Executor.Async, CONCURRENCY)
    )
    queue = Queue(
        "default",
        concurrency=int(options.get("concurrency", concurrency)),
        executor=executor,
        eager_polling=True,
    )
    async with _chancy(dsn) as _running:
        await _running.declare(queue, upsert=True)
        worker = Worker(_running)
        worker.send_outgoing_interval = FLUSH
        async with worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    main(ChancyEngine)
