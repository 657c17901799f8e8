"""The app that worker processes of the tests run; each body tells on stdout that it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

from perdure import App, current

app = App()


def tell(event: str) -> None:
    print(event, current().execution_id, flush=True)


@app.task
async def nap(seconds: float) -> str:
    tell("napping")
    await asyncio.sleep(seconds)
    return f"attempt {current().attempt}"


@app.task
def doze(seconds: float) -> str:
    tell("dozing")
    current().cancelled.wait(seconds)
    current().raise_if_cancelled()
    return f"attempt {current().attempt}"


@app.task
def sleep_through(seconds: float) -> None:
    tell("sleeping")
    time.sleep(seconds)


@app.task
async def block(seconds: float) -> int:
    """Holds the worker's event loop."""
    tell("blocking")
    time.sleep(seconds)  # noqa: ASYNC251
    return current().attempt


@app.task
def burn(seconds: float) -> int:
    """Keeps a core, and the interpreter, busy."""
    tell("burning")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return current().attempt


@app.task
def fork(seconds: float) -> None:
    """Leaves a child behind that has copies of all that was open."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    print("forked", child, flush=True)
    time.sleep(seconds)


@app.task
async def wait_for_stop() -> bool:
    tell("waiting")
    await current().shutting_down.wait_async()
    return current().is_shutting_down


@app.task
async def echo(value: object, /) -> object:
    return value


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    logging.basicConfig(level=logging.INFO)
    asyncio.run(
        app.run_worker(
            concurrency=int(options.get("concurrency", 10)),
            prefetch=int(options.get("prefetch", 0)),
            drain_timeout=float(options.get("drain_timeout", 30)),
            poll=float(options.get("poll", 5)),
            ttl=float(options.get("ttl", 10)),
            sweeper=options.get("sweeper", "yes") == "yes",
            direct_dsn=options.get("direct_dsn"),
            queues=options.get("queues", "default").split(","),
        )
    )
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
