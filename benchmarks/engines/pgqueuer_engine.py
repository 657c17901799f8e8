"""PgQueuer on asyncpg, as its guide to tuning has it. See `protocol`."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, AsyncpgPoolDriver, Job, PgQueuer, Queries

from inputs import SETTINGS, STEPS, chunks, inputs
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 500

# A job that has ended is deleted. Dead entries are at the old end of the index.
UNFINISHED = "select (select q.id from pgqueuer as q order by q.id desc limit 1) is not null"


class PgQueuerEngine(Engine):
    name = "pgqueuer"

    def install(self) -> None:
        async def install() -> None:
            queries = await _connect(self.dsn)
            await queries.install()
            await queries.optimize_autovacuum()  # "run `pgq autovac` after installation"

        uvloop.run(install())

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("pgqueuer"),
            "settings": {
                "batch": BATCH,
                "driver": f"asyncpg {version('asyncpg')}, one connection, a pool for bodies",
                "loop": "uvloop, as its command has it",
                "autovacuum": "as `pgq autovac` sets it",
                "durability": "durable, its default",
                **SETTINGS,
            },
            "unfinished": UNFINISHED,
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        seconds: float = uvloop.run(_enqueue(self.dsn, what, how, count))
        return seconds

    def work(self, options: dict[str, Any]) -> None:
        if options.get("sync"):
            raise Unsupported("no synchronous bodies")
        uvloop.run(_work(self.dsn, options))

    def sender(self) -> Callable[[], Any]:
        loop = uvloop.new_event_loop()
        queries = loop.run_until_complete(_connect(self.dsn))
        return lambda: loop.run_until_complete(queries.enqueue("stamp", None))


async def _connect(dsn: str) -> Queries:
    return Queries(AsyncpgDriver(await asyncpg.connect(dsn)))


async def _enqueue(dsn: str, what: str, how: str, count: int) -> float:
    given = inputs(what, count)
    connection = await asyncpg.connect(dsn)
    queries = Queries(AsyncpgDriver(connection))
    began = time.monotonic()
    match how:
        case "one":
            for each in given:
                await queries.enqueue(what, _payload(each))
        case "bulk":
            for chunk in chunks(given):
                size = len(chunk)
                await queries.enqueue([what] * size, [_payload(each) for each in chunk], [0] * size)
        case "transaction":
            async with connection.transaction():
                for each in given:
                    await queries.enqueue(what, _payload(each))
        case _:
            raise Unsupported(how)
    return time.monotonic() - began


def _payload(given: dict[str, Any]) -> bytes:
    return json.dumps(given).encode()


async def _work(dsn: str, options: dict[str, Any]) -> None:
    application = PgQueuer.from_asyncpg_connection(await asyncpg.connect(dsn))
    queries = Queries(AsyncpgPoolDriver(await asyncpg.create_pool(dsn, min_size=1)))

    @application.entrypoint("noop")
    async def noop(job: Job) -> None:
        begun()

    @application.entrypoint("stamp")
    async def stamp(job: Job) -> None:
        stamped()

    @application.entrypoint("chain")
    async def chain(job: Job) -> None:
        begun()
        step = json.loads(job.payload)["step"]
        if step < STEPS:
            await queries.enqueue("chain", _payload({"step": step + 1}))

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, application.shutdown.set)
    await application.run(
        batch_size=int(options.get("batch", BATCH)),
        max_concurrent_tasks=options.get("concurrency"),  # without it as many as are claimed
    )


if __name__ == "__main__":
    main(PgQueuerEngine)
