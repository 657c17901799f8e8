"""Procrastinate. See `protocol`."""

from __future__ import annotations

import asyncio
import logging
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from inputs import SETTINGS, STEPS, chunks, inputs
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY = 20

# It warns that names made from `__main__` are not stable; these tasks have names of their own.
logging.getLogger("procrastinate").setLevel(logging.ERROR)

# In the order of an index that knows only these, from its young end: jobs end in order of age.
UNFINISHED = """
select (
  select j.id
  from procrastinate_jobs as j
  where j.status = any(array['todo', 'doing']::procrastinate_job_status[])
  order by j.id desc, j.lock desc
  limit 1
) is not null
"""


def build(connector: PsycopgConnector | SyncPsycopgConnector, *, is_sync: bool = False) -> App:
    app = App(connector=connector)

    if is_sync:

        @app.task(name="noop")
        def noop(i: int, msg: str) -> dict[str, bool]:
            begun()
            return {"ok": True}
    else:

        @app.task(name="noop")
        async def noop_async(i: int, msg: str) -> dict[str, bool]:
            begun()
            return {"ok": True}

    @app.task(name="stamp")
    async def stamp() -> None:
        stamped()

    @app.task(name="chain")
    async def chain(step: int) -> None:
        begun()
        if step < STEPS:
            await chain.defer_async(step=step + 1)

    return app


class Procrastinate(Engine):
    name = "procrastinate"

    def install(self) -> None:
        with build(SyncPsycopgConnector(conninfo=self.dsn)).open() as app:
            app.schema_manager.apply_schema()

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("procrastinate"),
            "settings": {"concurrency": CONCURRENCY, "pool": "its default of 4", **SETTINGS},
            "unfinished": UNFINISHED,
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        given = inputs(what, count)
        with (
            build(SyncPsycopgConnector(conninfo=self.dsn)).open() as app,
            psycopg.connect(self.dsn) as conn,
        ):
            task = app.tasks[what]
            app.check_connection()
            began = time.monotonic()
            match how:
                case "one":
                    for each in given:
                        task.defer(**each)
                case "bulk":
                    for chunk in chunks(given):
                        task.batch_defer(*chunk)
                case "transaction":
                    for each in given:
                        task.configure(connection=conn).defer(**each)
                    conn.commit()
                case _:
                    raise Unsupported(how)
            return time.monotonic() - began

    def work(self, options: dict[str, Any]) -> None:
        asyncio.run(_work(self.dsn, options))

    def sender(self) -> Callable[[], Any]:
        app = build(SyncPsycopgConnector(conninfo=self.dsn)).open()
        app.check_connection()
        return lambda: app.tasks["stamp"].defer()


async def _work(dsn: str, options: dict[str, Any]) -> None:
    app = build(PsycopgConnector(conninfo=dsn), is_sync=bool(options.get("sync")))
    async with app.open_async():
        await app.run_worker_async(concurrency=int(options.get("concurrency", CONCURRENCY)))


if __name__ == "__main__":
    main(Procrastinate)
