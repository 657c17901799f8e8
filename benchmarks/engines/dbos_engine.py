"""DBOS Transact, for what makes it more than a queue: workflows of steps and of children.

See `protocol`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig

from inputs import BULK, MESSAGE, STEPS, chunks, inputs
from protocol import Engine, Unsupported, begun, main, stamped

if TYPE_CHECKING:
    from collections.abc import Callable

APPLICATION = "benchmark"
CONCURRENCY = 50
POLL = 0.05  # seconds

# Two queues: parents that wait in the children's one would leave no slot to what they wait for.
PARENTS, CHILDREN = "parents", "children"

# In the order of an index that knows only these two states.
UNFINISHED = """
select (
  select w.workflow_uuid
  from dbos.workflow_status as w
  where w.status in ('ENQUEUED', 'PENDING')
  order by w.queue_name, w.status, w.priority, w.created_at
  limit 1
) is not null
"""


@DBOS.workflow()
def noop(i: int, msg: str) -> dict[str, bool]:
    begun()
    return {"ok": True}


@DBOS.workflow()
def stamp() -> None:
    stamped()


@DBOS.step()
def advance(step: int) -> int:
    return step + 1


@DBOS.workflow()
def chain(step: int) -> int:
    begun()
    for _ in range(STEPS):
        step = advance(step)
    return step


@DBOS.workflow()
def tree(children: int, finalize: bool) -> int:
    begun()
    handles = [DBOS.enqueue_workflow(CHILDREN, noop, i, MESSAGE) for i in range(children)]
    if finalize:
        for handle in handles:
            handle.get_result(polling_interval_sec=POLL)
    return len(handles)


class Dbos(Engine):
    name = "dbos"

    def install(self) -> None:
        self._launch(CONCURRENCY)
        DBOS.destroy()

    def describe(self) -> dict[str, Any]:
        return {
            "version": version("dbos"),
            "settings": {
                "worker_concurrency": f"{CONCURRENCY} per queue",
                "polling_interval_sec": POLL,
                "pool": "its default of 20",
                "bodies": "functions, in threads",
                "bulk": f"enqueue_in_transaction, {BULK} per transaction: no other way for many",
            },
            "unfinished": UNFINISHED,
            "finalized": "select count(*) from dbos.workflow_status"
            " where name = 'tree' and status = 'SUCCESS'",
        }

    def enqueue(self, what: str, how: str, count: int, options: dict[str, Any]) -> float:
        if what == "tree":
            finalize = bool(options.get("finalize"))
            given = [{"children": options["children"], "finalize": finalize}] * count
        else:
            given = inputs(what, count)
        client = self._client()
        engine = sqlalchemy.create_engine(
            sqlalchemy.make_url(self.dsn).set(drivername="postgresql+psycopg")
        )
        with engine.connect() as conn:
            began = time.monotonic()
            match how:
                case "one":
                    for each in given:
                        client.enqueue(_options(what), **each)
                case "bulk" | "transaction":
                    for chunk in chunks(given) if how == "bulk" else [given]:
                        for each in chunk:
                            client.enqueue_in_transaction(conn, _options(what), **each)
                        conn.commit()
                case _:
                    raise Unsupported(how)
            seconds = time.monotonic() - began
        client.destroy()
        return seconds

    def work(self, options: dict[str, Any]) -> None:
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        self._launch(int(options.get("concurrency", CONCURRENCY)))
        stopped.wait()
        DBOS.destroy(workflow_completion_timeout_sec=10)

    def sender(self) -> Callable[[], Any]:
        client = self._client()
        return lambda: client.enqueue(_options("stamp"))

    def _client(self) -> DBOSClient:
        return DBOSClient(system_database_url=self.dsn, application_name=APPLICATION)

    def _launch(self, concurrency: int) -> None:
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self.dsn,
            "application_version": "1",
            "executor_id": str(os.getpid()),  # else two workers would be one to it
            "log_level": "ERROR",
        }
        DBOS(config=config)
        DBOS.launch()
        for queue in (PARENTS, CHILDREN):
            DBOS.register_queue(queue, worker_concurrency=concurrency, polling_interval_sec=POLL)


def _options(what: str) -> Any:
    return {"workflow_name": what, "queue_name": PARENTS}


if __name__ == "__main__":
    main(Dbos)
