"""The worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from perdure._app import App


class WorkerOptions(TypedDict, total=False):
    """How a worker runs."""

    queues: Sequence[str]
    concurrency: int
    batch: int
    prefetch: int
    drain_timeout: float
    name: str
    install_signals: bool


class Worker:
    """Runs an app's tasks."""

    def __init__(self, app: App, **options: Unpack[WorkerOptions]) -> None:
        self.app = app

    async def run(self) -> None:
        raise NotImplementedError
