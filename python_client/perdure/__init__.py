"""Perdure: durable tasks inside PostgreSQL."""

from __future__ import annotations

from perdure import errors, records
from perdure._app import App
from perdure._channel_lock import AsyncChannelLock, ChannelLock
from perdure._client_async import Client, Handle
from perdure._client_sync import SyncClient, SyncHandle
from perdure._context import Context, current
from perdure._finalize import Children, Finalize
from perdure._options import Options, TaskOptions
from perdure._returns import Again, Done, Spawn, again, done, spawn
from perdure._task import Task, TaskCall, by_name
from perdure._worker import Worker, WorkerOptions
from perdure.errors import Cancelled, Fail, PerdureError, Retry, TimedOut
from perdure.records import LoopResult

__all__ = [
    "Again",
    "App",
    "AsyncChannelLock",
    "Cancelled",
    "ChannelLock",
    "Children",
    "Client",
    "Context",
    "Done",
    "Fail",
    "Finalize",
    "Handle",
    "LoopResult",
    "Options",
    "PerdureError",
    "Retry",
    "Spawn",
    "SyncClient",
    "SyncHandle",
    "Task",
    "TaskCall",
    "TaskOptions",
    "TimedOut",
    "Worker",
    "WorkerOptions",
    "again",
    "by_name",
    "current",
    "done",
    "errors",
    "records",
    "spawn",
]
