"""For tests of applications: a worker that runs beside the test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from perdure._worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Unpack

    from perdure._app import App
    from perdure._worker import WorkerOptions


@asynccontextmanager
async def working(app: App, **options: Unpack[WorkerOptions]) -> AsyncIterator[Worker]:
    """A worker that runs meanwhile, in this event loop; afterwards it has stopped.

    `async with working(app): assert await (await task.enqueue(1)).result(timeout=5) == 2`
    """
    options.setdefault("install_signals", False)
    options.setdefault("drain_timeout", 5.0)
    worker = Worker(app, **options)
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await running
