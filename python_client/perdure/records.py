"""What the engine tells, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from perdure.errors import PerdureError

T = TypeVar("T")

Status: TypeAlias = Literal[
    "ready",
    "running",
    "sleeping",
    "waiting_for_children",
    "waiting_for_finalize",
    "completed",
    "failed",
    "timed_out",
    "finalize_failed",
    "cancelled",
]

FINISHED: frozenset[str] = frozenset(
    {"completed", "failed", "timed_out", "finalize_failed", "cancelled"}
)


@dataclass(frozen=True, slots=True)
class StoredError:
    """An error as stored with an execution or attempt."""

    type: str
    message: str
    retryable: bool = False
    traceback: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> StoredError | None:
        if value is None:
            return None
        return cls(
            type=str(value.get("type", "unknown")),
            message=str(value.get("message", "")),
            retryable=bool(value.get("retryable", False)),
            traceback=value.get("traceback"),
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """One row of the view `perdure.executions`."""

    id: int
    task: str
    queue: str
    priority: int
    status: Status
    attempt: int
    crashes: int
    iteration: int
    input: Any
    output: Any
    error: StoredError | None
    key: str | None
    parent_id: int | None
    parent_generation: int | None
    position: int | None
    is_finalize: bool
    root_id: int
    worker_id: int | None
    tags: list[str] | None
    headers: dict[str, Any] | None
    created_at: datetime
    start_at: datetime | None
    started_at: datetime | None
    expires_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime | None
    max_attempts: int
    timeout: timedelta | None
    shard_key: str | None

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended."""

    id: int
    status: Status
    output: Any
    error: StoredError | None

    @property
    def is_completed(self) -> bool:
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a parent, in the order given; `output` is set only when it completed."""

    position: int
    id: int
    task: str
    status: Status
    output: Any
    error: StoredError | None

    @property
    def is_completed(self) -> bool:
        return self.status == "completed"


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One execution of a tree, depth-first."""

    id: int
    parent_id: int | None
    depth: int
    position: int | None
    is_finalize: bool
    task: str
    status: Status
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    error: StoredError | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that did not complete."""

    attempt: int
    token: int
    status: str
    error: StoredError | None
    output: Any
    worker_id: int | None
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class Woken:
    """A sleeping execution after `wake`; `is_woken` is false when it had ended before."""

    id: int
    status: Status
    output: Any
    error: StoredError | None
    is_woken: bool


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of one item of `enqueue_many`: an id, or why it was refused."""

    item: int
    id: int | None
    is_new: bool
    error: PerdureError | None


@dataclass(frozen=True, slots=True)
class Leader:
    """A channel with its last holder."""

    purpose: str  # sweep, or lock
    channel: str
    mode: str | None  # session, lease or oneshot; None: resigned
    is_held: bool  # whether that holder is alive
    name: str | None
    epoch: int
    acquired_at: datetime | None
    expires_at: datetime | None  # in lease mode
    backend: int | None  # the server process at which it was elected


@dataclass(frozen=True, slots=True)
class RegisteredWorker:
    """A worker as others see it."""

    machine_id: int  # the smallest number that was free
    name: str
    worker_id: int
    is_alive: bool
    is_healthy: bool
    mode: str  # session, or lease
    queues: list[str]
    tasks: list[str] | None  # None: all
    running: int  # executions that it has leased
    weight: int
    ttl: timedelta
    registered_at: datetime
    lost_at: datetime | None
    expires_at: datetime | None  # in lease mode
    info: Any


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a sharded queue, from 0, and the worker that owns it."""

    queue: str
    number: int
    machine_id: int | None  # None: nobody owns it
    name: str | None
    worker_id: int | None
    epoch: int
    acquired_at: datetime | None
    next_id: int | None  # the execution that stands first in its line


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one pass of `sweep` did; `more` says that another one has work.

    `skipped` says why it did nothing, as far as that is no fault: `resident leader` or `busy`.
    """

    promoted: int
    recovered: int
    timed_out: int
    closed: int
    moved: int
    forgotten: int
    more: bool
    deleted: int
    skipped: str | None


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant that `fsck` found."""

    invariant: str
    id: int | None
    detail: str


Operation: TypeAlias = Literal["insert", "update", "delete"]


@dataclass(frozen=True, slots=True)
class Watch:
    """A table whose changed rows become executions of a task, as it is asked for."""

    table: str
    task: str
    columns: tuple[str, ...] | None
    condition: str | None
    operations: tuple[Operation, ...]
    queue: str | None


@dataclass(frozen=True, slots=True)
class WatchHealth:
    """One trigger of a watched table; `problem` is None where it is as it has to be."""

    watch: int | None
    table: str
    task: str | None
    operation: Operation
    problem: str | None


@dataclass(frozen=True, slots=True)
class WatchRepair:
    """One broken trigger, and what came of mending it: repaired, busy, or why it could not be."""

    table: str
    task: str | None
    operation: Operation
    problem: str
    result: str

    @property
    def is_repaired(self) -> bool:
        return self.result == "repaired"


@dataclass(frozen=True, slots=True)
class LoopResult(Generic[T]):
    """The output of a looping task: `done` is false when its iterations were used up."""

    done: bool
    output: T | None = None
