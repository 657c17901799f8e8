"""Oban for Python, the open one. See `protocol`."""

from __future__ import annotations

import asyncio
import atexit
import signal
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg
import uvloop
from oban import Oban, job
from oban.schema import install as install_schema

from inputs import SETTINGS, STEPS, chunks, inputs
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 200

# The states of a job that has not ended come first, in the type and so in the index.
UNFINISHED = """
select (
  select j.state from oban_jobs as j where j.state <= 'retryable' order by j.state limit 1
) is not null
"""


@job()
async def noop(i: int, msg: str) -> dict[str, bool]:
    begun()
    return {"ok": True}


@job()
async def stamp() -> None:
    stamped()


@job()
async def chain(step: int) -> None:
    begun()
    if step < STEPS:
        await Oban.get_instance().enqueue(chain.new(step + 1))


JOBS = {"noop": noop, "chain": chain}


class ObanEngine(Engine):
    name = "oban"

    def install(self) -> None:
        async def install() -> None:
            async with await Oban.create_pool(self.dsn) as pool:
                await install_schema(pool)

        uvloop.run(install())

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("oban"),
            "settings": {
                "limit": LIMIT,
                "pool": "its default of 10",
                "loop": "uvloop, as its command has it",
                **SETTINGS,
            },
            "unfinished": UNFINISHED,
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        seconds: float = uvloop.run(_enqueue(self.dsn, what, how, count))
        return seconds

    def work(self, options: dict[str, Any]) -> None:
        if options.get("sync"):
            raise Unsupported("functions run in the event loop, not in threads")
        uvloop.run(_work(self.dsn, int(options.get("concurrency", LIMIT))))

    def sender(self) -> Callable[[], Any]:
        loop = uvloop.new_event_loop()
        pool = loop.run_until_complete(Oban.create_pool(self.dsn))
        atexit.register(lambda: loop.run_until_complete(pool.close()))
        oban = Oban(pool=pool)
        return lambda: loop.run_until_complete(oban.enqueue(stamp.new()))


async def _enqueue(dsn: str, what: str, how: str, count: int) -> float:
    given = inputs(what, count)
    new = JOBS[what].new
    async with (
        await Oban.create_pool(dsn) as pool,
        await psycopg.AsyncConnection.connect(dsn) as conn,
    ):
        oban = Oban(pool=pool)
        began = time.monotonic()
        match how:
            case "one":
                for each in given:
                    await oban.enqueue(new(**each))
            case "bulk":
                for chunk in chunks(given):
                    await oban.enqueue_many(new(**each) for each in chunk)
            case "transaction":
                for each in given:
                    await oban.enqueue(new(**each), conn=conn)
                await conn.commit()
            case _:
                raise Unsupported(how)
        return time.monotonic() - began


async def _work(dsn: str, limit: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with (
        await Oban.create_pool(dsn) as pool,
        Oban(pool=pool, queues={"default": limit}),
    ):
        await stopped.wait()


if __name__ == "__main__":
    main(ObanEngine)
