# Generated from _client_async.py by tools/unasync.py: change that file, then run the tool.
"""The client: enqueue, look, wait, act. The blocking one."""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import tuple_row

from perdure import _blocking as blocking
from perdure import _calls, _dsn, _json, _schema, _watches
from perdure._task import Task, TaskCall, as_call, by_name
from perdure._unset import UNSET, Unset
from perdure.errors import (
    CannotConnect,
    ConnectionLost,
    ExecutionFailed,
    UnknownTask,
    WaitTimedOut,
    from_psycopg,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from typing import Self, Unpack

    from perdure._calls import Call
    from perdure._options import Options
    from perdure._task import Spawnable
    from perdure.records import (
        Attempt,
        Child,
        Enqueued,
        Execution,
        Leader,
        Operation,
        Outcome,
        RegisteredWorker,
        Shard,
        Status,
        SweepReport,
        TreeNode,
        Violation,
        WatchHealth,
        WatchRepair,
        Woken,
    )

R = TypeVar("R")
T = TypeVar("T")

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25

# The statement was planned for a function that has been replaced since: nothing was run.
OUTDATED = (psycopg.errors.FeatureNotSupported, psycopg.errors.InvalidSqlStatementName)


def send(connection: blocking.Connection, call: Call[T]) -> T:
    """Runs the call on a connection; the engine's own errors come as PerdureError."""
    try:
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(call.statement, call.params)
        # not `description`, which is put together anew from all columns
        has_rows = cursor.rownumber is not None
        return call.decode(cursor.fetchall() if has_rows else [])
    except psycopg.Error as error:
        if (own := from_psycopg(error)) is not None:
            raise own from error
        raise


def send_replanned(connection: blocking.Connection, call: Call[T]) -> T:
    """The same on a connection of our own: prepared anew, once, after a schema upgrade."""
    try:
        return send(connection, call)
    except OUTDATED:
        connection.execute("deallocate all")
        return send(connection, call)


def connect(dsn: str, name: str) -> blocking.Connection:
    """A connection whose schema fits this client; it prepares nothing where a pooler is between."""
    try:
        connection: blocking.Connection = blocking.ConnectionClass.connect(
            _dsn.complete(dsn, name), autocommit=True
        )
    except psycopg.OperationalError as error:
        raise CannotConnect(f"cannot connect to the database: {error}") from error
    try:
        found = send(connection, _calls.hello())
        _schema.judge_version(found.version)
    except _schema.NOT_INSTALLED:
        connection.close()
        raise _schema.not_installed() from None
    except BaseException:
        connection.close()
        raise
    if found.backend != connection.info.backend_pid:  # which a pooler makes up
        connection.prepare_threshold = None
    return connection


class Link:
    """A connection that opens at first use and again after it was lost; one call at a time."""

    def __init__(self, dsn: str | None) -> None:
        self._dsn = dsn
        self._lock = blocking.Lock()
        self._connection: blocking.Connection | None = None

    def run(self, call: Call[T]) -> T:
        """Sends the call; again, once, where the connection was lost and the call only reads."""
        with self._lock:
            try:
                return self._send(call)
            except psycopg.OperationalError as error:
                if self._connection is not None and not self._connection.closed:
                    raise
                if not call.is_read:
                    raise ConnectionLost(
                        "the connection was lost during the call: it may have taken effect, or not"
                    ) from error
                return self._send(call)

    def _send(self, call: Call[T]) -> T:
        return send_replanned(self._open(), call)

    def _open(self) -> blocking.Connection:
        if self._connection is None or not _is_alive(self._connection):
            self._drop()
            self._connection = connect(_dsn.resolve(self._dsn), "perdure")
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._lock:
            self._drop()


def _is_alive(connection: blocking.Connection) -> bool:
    """False when the server has hung up while the connection was idle."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):  # to an idle client a server says little but goodbye
        return True
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


class SyncHandle(Generic[R]):
    """One execution, seen from outside."""

    def __init__(
        self,
        client: SyncClient,
        execution_id: int,
        read_output: Callable[[Any], R],
        *,
        is_new: bool = True,
    ) -> None:
        self._client = client
        self._read_output = read_output
        self.id = execution_id
        self.is_new = is_new  # false when its key had an execution already

    def __repr__(self) -> str:
        return f"<execution {self.id}>"

    def status(self) -> Status:
        """The status it has at the moment; ExecutionNotFound when there is none."""
        return self._client.status(self.id)

    def get(self) -> Execution:
        """All that is known of it."""
        return self._client.get(self.id)

    def wait(self, timeout: float | None = None) -> Outcome:
        """How it ended, once it has; WaitTimedOut after `timeout` seconds."""
        return self._client.wait(self.id, timeout)

    def result(self, timeout: float | None = None) -> R:
        """Its output, once it has completed; ExecutionFailed when it ended otherwise."""
        outcome = self.wait(timeout)
        if not outcome.is_completed:
            raise ExecutionFailed.of(outcome)
        return self._read_output(outcome.output)

    def cancel(self, reason: str | None = None) -> str:
        """Cancels it with its whole live subtree: `cancelled`, `pending`, or `finished`."""
        return self._client.cancel(self.id, reason)


class SyncClient:
    """Talks to one database, over a connection of its own or over the caller's (`conn`).

    A call over the caller's connection becomes part of the caller's transaction.
    """

    def __init__(self, tasks: Mapping[str, Task[..., Any, Any]], dsn: str | None = None) -> None:
        self._tasks = tasks
        self.dsn = dsn
        self._links: WeakKeyDictionary[Hashable, Link] = WeakKeyDictionary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; a later call opens another one."""
        link = self._links.pop(blocking.scope(), None)
        if link is not None:
            link.close()

    def run(self, call: Call[T], conn: blocking.Connection | None = None) -> T:
        """Runs one call of `perdure._calls`."""
        if conn is None:
            return self._links.setdefault(blocking.scope(), Link(self.dsn)).run(call)
        if not isinstance(conn, blocking.ConnectionClass):
            raise TypeError(
                f"conn is a {type(conn).__name__}, but this client needs a psycopg"
                f" {blocking.ConnectionClass.__name__}"
            )
        return send(conn, call)

    # Enqueue

    @overload
    def enqueue(
        self,
        what: Task[..., R, Any] | TaskCall[R],
        *,
        conn: blocking.Connection | None = None,
        notify: bool = True,
        **options: Unpack[Options],
    ) -> SyncHandle[R]: ...
    @overload
    def enqueue(
        self,
        what: str,
        input: Any | Unset = UNSET,
        *,
        conn: blocking.Connection | None = None,
        notify: bool = True,
        **options: Unpack[Options],
    ) -> SyncHandle[Any]: ...
    def enqueue(
        self,
        what: str | Spawnable,
        input: Any | Unset = UNSET,  # noqa: A002
        *,
        conn: blocking.Connection | None = None,
        notify: bool = True,
        **options: Unpack[Options],
    ) -> SyncHandle[Any]:
        """Enqueues a call of a task, or a task by its name with its input.

        A name need not be known here; where it is, the input is checked all the same. Without
        `notify` idle workers find it when they look for themselves.
        """
        call = self.resolve(what, input).options(**options)
        item = call.item()
        # refused, this one is an error of SQL: that would end a transaction of the caller's
        if conn is None and _calls.is_plain(item):
            id_ = self.run(_calls.enqueue(item, notify))
            return self._handle(call, id_, is_new=True)
        batch = _calls.array([_json.dumps(item)])
        (enqueued,) = self.run(_calls.enqueue_many(batch, notify), conn)
        if enqueued.error is not None:
            raise enqueued.error
        assert enqueued.id is not None
        return self._handle(call, enqueued.id, is_new=enqueued.is_new)

    def enqueue_many(
        self,
        calls: Iterable[Spawnable],
        *,
        conn: blocking.Connection | None = None,
        notify: bool = True,
        **options: Unpack[Options],
    ) -> list[Enqueued]:
        """Enqueues many calls, 1,000 or 8 MiB at a time; each is accepted or refused alone.

        What cannot be a call at all is refused before anything is sent.
        """
        resolved = [self.resolve(what).options(**options) for what in calls]
        done: list[Enqueued] = []
        for enqueued in self.enqueue_stream(resolved, conn=conn, notify=notify):
            done.append(enqueued)
        return done

    def enqueue_stream(
        self,
        calls: Iterable[Spawnable],
        *,
        conn: blocking.Connection | None = None,
        notify: bool = True,
        **options: Unpack[Options],
    ) -> Iterator[Enqueued]:
        """The same for any number: a batch is made while the one before it is under way.

        Never more than these two, and the answers to one, are in memory. What was sent before
        `calls` raised stays enqueued, but for a transaction of yours.
        """
        batches = _calls.batches(self.resolve(what).options(**options).item() for what in calls)
        under_way = failure = None
        while True:
            try:
                following = next(batches, None)
            except Exception as error:  # what was sent is answered first
                following, failure = None, error
            if under_way is not None:
                for answer in blocking.result(under_way):
                    yield answer  # meanwhile nothing is under way: one may leave here
            if following is None:
                break
            start, batch, is_last = following
            call = _calls.enqueue_many(batch, notify, start)
            if is_last:  # as most are: there is nothing to be made meanwhile
                for answer in self.run(call, conn):
                    yield answer
                break
            under_way = blocking.begin(self.run, call, conn)
        if failure is not None:
            raise failure

    def resolve(self, what: str | Spawnable, input: Any | Unset = UNSET) -> TaskCall[Any]:  # noqa: A002
        """The call that is meant; UnknownTask when it is of a task of another app."""
        if isinstance(what, str):
            known = self._tasks.get(what)
            return by_name(what, input) if known is None else known.with_input(input)
        if input is not UNSET:
            raise TypeError("an input is given apart only with a task's name: use task.call(...)")
        call = as_call(what)
        if call.task is not None and self._tasks.get(call.name) is not call.task:
            raise UnknownTask(
                f"this app does not know the task {call.name!r}: it belongs to another app",
                hint="give its name as a string to enqueue it all the same",
            )
        return call

    def _handle(self, call: TaskCall[Any], execution_id: int, *, is_new: bool) -> SyncHandle[Any]:
        read = _as_is if call.task is None else call.task.binding.read_output
        return SyncHandle(self, execution_id, read, is_new=is_new)

    # Look

    @overload
    def handle(self, execution_id: int) -> SyncHandle[Any]: ...
    @overload
    def handle(self, execution_id: int, task: Task[..., R, Any]) -> SyncHandle[R]: ...
    def handle(self, execution_id: int, task: Task[..., Any, Any] | None = None) -> SyncHandle[Any]:
        """A handle for an id; with the task its result is typed."""
        return SyncHandle(self, execution_id, _as_is if task is None else task.binding.read_output)

    def get(self, execution_id: int) -> Execution:
        """All that is known of an execution; ExecutionNotFound when there is none."""
        return self.run(_calls.get_execution(execution_id))

    def status(self, execution_id: int) -> Status:
        """The status it has at the moment; ExecutionNotFound when there is none."""
        status: Status = self.run(_calls.status(execution_id))
        return status

    def outcomes(self, ids: Iterable[int]) -> list[Outcome]:
        """How those of the executions ended that have."""
        return self.run(_calls.outcomes(list(ids)))

    def wait(self, execution_id: int, timeout: float | None = None) -> Outcome:
        """How the execution ended, once it has; WaitTimedOut after `timeout` seconds."""
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        found = self.outcomes([execution_id])
        if not found:
            self.status(execution_id)
        while not found:
            left = give_up - time.monotonic()
            if left <= 0:
                raise WaitTimedOut(f"execution {execution_id} had not ended after {timeout} s")
            blocking.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            found = self.outcomes([execution_id])
        return found[0]

    def executions(
        self,
        *,
        status: Status | None = None,
        task: str | None = None,
        queue: str | None = None,
        parent_id: int | None = None,
        roots_only: bool = False,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Execution]:
        """The newest executions; `before` an id, for the next page."""
        call = _calls.executions(
            status=status,
            task=task,
            queue=queue,
            parent_id=parent_id,
            roots_only=roots_only,
            before=before,
            limit=limit,
        )
        return self.run(call)

    def children(
        self, parent: int, generation: int | None = None, *, after: int = -1, limit: int = 1000
    ) -> list[Child]:
        """One page of a parent's children, in order, after a position."""
        return self.run(_calls.children(parent, generation, after, limit))

    def tree(self, root: int, *, limit: int = 1000) -> list[TreeNode]:
        """The executions of a tree, depth-first."""
        return self.run(_calls.tree(root, limit))

    def tree_progress(self, root: int) -> dict[str, int]:
        """How many executions of a tree have which status."""
        return self.run(_calls.tree_progress(root))

    def attempts(self, execution_id: int) -> list[Attempt]:
        """The attempts of an execution that did not complete."""
        return self.run(_calls.attempts(execution_id))

    def leaders(self, purpose: str | None = None, channel: str | None = None) -> list[Leader]:
        """Who leads what, or did last; purpose `sweep` or `lock`."""
        return self.run(_calls.leaders(purpose, channel))

    def workers(self, *, lost: bool = False) -> list[RegisteredWorker]:
        """The workers that live; with `lost` also those that are about to be given up."""
        return self.run(_calls.workers(not lost))

    def shards(self, queue: str | None = None) -> list[Shard]:
        """The shards of a sharded queue (None: of all) and their owners."""
        return self.run(_calls.shards(queue))

    def fsck(self) -> list[Violation]:
        """The broken invariants; none when all is well."""
        return self.run(_calls.fsck())

    # Act

    def wake(
        self,
        task: str | Task[..., Any, Any],
        key: str,
        output: Any = None,
        *,
        error: str | Mapping[str, Any] | None = None,
        key_scope: str | None = None,
        conn: blocking.Connection | None = None,
    ) -> Woken:
        """Ends a sleeping execution with an output, or as failed with an error.

        One that has ended before keeps its outcome, which is returned.
        """
        name = task if isinstance(task, str) else task.name
        if isinstance(error, str):
            error = {"type": "woken", "message": error, "retryable": False}
        known = self._tasks.get(name)
        if error is not None:
            call = _calls.wake(name, key, None, _json.encode(error, "error"), key_scope)
        elif known is not None:
            call = _calls.wake(name, key, known.binding.write_output(output), None, key_scope)
        else:
            call = _calls.wake(name, key, _json.encode(output, "output"), None, key_scope)
        return self.run(call, conn)

    def cancel(
        self,
        execution_id: int,
        reason: str | None = None,
        *,
        conn: blocking.Connection | None = None,
    ) -> str:
        """Cancels an execution with its live subtree: `cancelled`, `pending`, or `finished`."""
        result: str = self.run(_calls.cancel(execution_id, reason), conn)
        return result

    def retry(self, execution_id: int, *, detach: bool = False) -> int:
        """Runs an ended execution again; detached, it no longer tells its parent."""
        return self.run(_calls.retry_finished(execution_id, detach))

    def sweep(self, channel: str | None = None, *, limit: int = 1000) -> SweepReport:
        """One pass of what time alone causes."""
        return self.run(_calls.sweep(channel, limit))

    def request_resign(self, channel: str, purpose: str = "lock") -> bool:
        """Asks whoever leads a channel to let the next one in; whether anybody did lead."""
        return self.run(_calls.request_resign([channel], purpose)) > 0

    def shard_queue(
        self, queue: str, shards: int = 64, *, on_retry: str = "hold", rebalance: bool = True
    ) -> None:
        """Makes a queue a sharded one: executions of one `shard_key` run one at a time, by id.

        on_retry: `hold` keeps a key back while one of its executions waits for a retry, `skip`
        lets the next one pass. rebalance: shards follow the workers that come and go.
        """
        self.run(_calls.shard_queue(queue, shards, on_retry, rebalance))

    def set_worker_health(self, machine_id: int, healthy: bool) -> bool:
        """Marks a worker as healthy or not; False where none has this machine id."""
        return self.run(_calls.set_worker_health(machine_id, healthy))

    # Watch tables

    def watch_table(
        self,
        table: str,
        task: str | Task[..., Any, Any],
        *,
        columns: Sequence[str] | None = None,
        condition: str | None = None,
        operations: Sequence[Operation] = _watches.OPERATIONS,
        queue: str | None = None,
        conn: blocking.Connection | None = None,
    ) -> int:
        """Has every changed row of a table enqueue one execution of a task; the watch's id.

        Its input is {"table", "op", "new", "old"}. `columns`: an update counts only where one of
        them differs. `condition`: SQL over `new` and `old`, run with the engine owner's rights.
        TableNotFound, or WatchBusy when the table is being written to.
        """
        watch = _watches.declare(
            table, task, columns=columns, condition=condition, operations=operations, queue=queue
        )
        return self.run(_calls.watch_table(watch), conn)

    def unwatch_table(
        self,
        table: str,
        task: str | Task[..., Any, Any],
        *,
        conn: blocking.Connection | None = None,
    ) -> bool:
        """Ends a watch; false when there was none. WatchBusy when the table is in use."""
        name = task if isinstance(task, str) else task.name
        return self.run(_calls.unwatch_table(table, name), conn)

    def check_watches(self, table: str | None = None) -> list[WatchHealth]:
        """Whether the triggers of watched tables (None: of all) are as they have to be."""
        return self.run(_calls.check_watches(table))

    def repair_watches(self, table: str | None = None) -> list[WatchRepair]:
        """Makes broken triggers anew; what was found broken, and what came of it."""
        return self.run(_calls.repair_watches(table))

    def define_tasks(self) -> int:
        """Publishes what this app's tasks declare; the number that changed."""
        return self.run(_calls.define_tasks(self.definitions()))

    def definitions(self) -> list[dict[str, Any]]:
        """What this app's tasks declare, as the engine takes it."""
        return [{"name": task.name, **task.fields} for task in self._tasks.values()]


def _as_is(value: Any) -> Any:
    return value
