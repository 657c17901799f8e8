"""Perdure as its users run it: a worker, tasks, the client's own calls. See `protocol`."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import psycopg

from perdure import App, Done, Finalize, Spawn, TaskCall, Worker, _schema, current, done, spawn
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = "hello world payload"
STEPS = 10
SHORT = 4
ITERATIONS = 3
PAUSE = 0.1
BATCH = 100

# The rooms that stay full until the end come first, and each is looked at from its young end: what
# has left a room leaves dead entries at the old one. Work for tomorrow is not waited for.
UNFINISHED = """
select (select r.id from perdure.running as r order by r.id desc limit 1) is not null
  or (select w.id from perdure.waiting as w order by w.id desc limit 1) is not null
  or (select r.id from perdure.ready as r order by r.id desc limit 1) is not null
  or coalesce(
    (select s.start_at from perdure.scheduled as s order by s.start_at limit 1)
    < now() + interval '1 hour',
    false
  )
"""

# Numbers are given in a row: how far the last one is from the one whose turn it is.
IN_LINE = """
select q.last_value - (
  select r.id
  from perdure.ready as r
  where r.queue = 'default' and not r.is_aside and r.shard is null
  order by r.priority, r.start_at, r.id
  limit 1
)
from perdure.execution_id_seq as q
"""


def build(dsn: str, *, is_sync: bool = False) -> App:
    """The tasks; with `is_sync` the no-op is a function, not a coroutine."""
    app = App(dsn)

    if is_sync:

        @app.task
        def noop(i: int, msg: str) -> dict[str, bool]:
            begun()
            return {"ok": True}
    else:

        @app.task(name="noop")
        async def noop_async(i: int, msg: str) -> dict[str, bool]:
            begun()
            return {"ok": True}

    @app.task
    async def stamp() -> None:
        stamped()

    @app.task
    async def pause() -> None:
        begun()
        await asyncio.sleep(PAUSE)

    @app.task
    async def step(value: int, /) -> int:
        begun()
        return value + 1

    @app.task
    async def tree(children: int, finalize: bool) -> Spawn[None]:
        begun()
        calls = [app.call("noop", {"i": i, "msg": MESSAGE}) for i in range(children)]
        return spawn(calls, finalize=gathered if finalize else None)

    @app.task
    async def gathered(given: Finalize) -> int:
        return given.generation  # a no-op, like the children; what there is to read is a page away

    app.sequence("chain", [step] * STEPS)
    app.sequence("short_chain", [step] * SHORT)

    @app.loop(max_iterations=ITERATIONS + 1)
    async def loop() -> Done[int] | None:
        begun()
        iteration = current().iteration
        return done(iteration) if iteration + 1 == ITERATIONS else None

    return app


def install(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        _schema.migrate(conn)


class Perdure(Engine):
    name = "perdure"

    def install(self) -> None:
        install(self.dsn)

    def describe(self) -> dict[str, Any]:
        return {
            "version": _schema.client_version(),
            "settings": {"batch": BATCH, "concurrency": "2 batches"},
            "unfinished": UNFINISHED,
            "finalized": "select count(*) from perdure.execution join perdure.finished using (id)"
            " where is_finalize and status = 'completed'",
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        app = build(self.dsn)
        with app.sync as client:
            client.executions(limit=1)  # connected
            if "seconds" in options:
                return produce(
                    self.dsn,
                    lambda size: client.enqueue_many(_calls(app, what, size, options)),
                    **options,
                )
            calls = _calls(app, what, count, options)
            began = time.monotonic()
            match how:
                case "one":
                    for call in calls:
                        client.enqueue(call)
                case "bulk":
                    for _ in client.enqueue_stream(calls):
                        pass
                case "transaction":
                    with psycopg.connect(self.dsn) as conn:
                        began = time.monotonic()
                        for call in calls:
                            client.enqueue(call, conn=conn)
                        conn.commit()
                        return time.monotonic() - began
                case _:
                    raise Unsupported(how)
            return time.monotonic() - began

    def work(self, options: dict[str, Any]) -> None:
        batch = int(options.get("batch", BATCH))
        workers = [
            Worker(
                build(self.dsn, is_sync=bool(options.get("sync"))),
                batch=batch,
                concurrency=int(options.get("concurrency", 2 * batch)),
                install_signals=False,
                name=f"benchmark-{number}",
            )
            for number in range(int(options.get("connections", 1)))
        ]
        asyncio.run(_run(workers))

    def sender(self) -> Callable[[], Any]:
        client = build(self.dsn).sync
        client.executions(limit=1)
        return lambda: client.enqueue("stamp")


def _calls(app: App, what: str, count: int, options: dict[str, Any]) -> Iterator[TaskCall[Any]]:
    """Made one by one: a million of them need no memory."""
    match what:
        case "noop":
            for i in range(count):
                yield app.call("noop", {"i": i, "msg": MESSAGE})
        case "pause" | "loop":
            for _ in range(count):
                yield app.call(what)
        case "chain":
            for i in range(count):
                yield app.call(what, i)
        case "tree":
            given = {"children": options["children"], "finalize": bool(options.get("finalize"))}
            for _ in range(count):
                yield app.call(what, given)
        case "mix":  # a third of each
            for i in range(count // 3):
                yield app.call("tree", {"children": 50, "finalize": True})
                yield app.call("short_chain", i)
                yield app.call("loop")
        case _:
            raise Unsupported(what)


def produce(dsn: str, enqueue: Callable[[int], Any], *, seconds: float, ahead: int) -> float:
    """Enqueues a thousand at a time, so that never more than `ahead` and these are in line."""
    began = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as conn:
        while time.monotonic() < began + seconds:
            row = conn.execute(IN_LINE, prepare=True).fetchone()
            if row and (row[0] or 0) > ahead:
                time.sleep(0.01)
            else:
                enqueue(1_000)
    return time.monotonic() - began


async def _run(workers: list[Worker]) -> None:
    def stop() -> None:
        for worker in workers:
            worker.stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await asyncio.gather(*(worker.run() for worker in workers))


if __name__ == "__main__":
    main(Perdure)
