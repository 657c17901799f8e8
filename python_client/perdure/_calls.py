"""Every SQL statement of the client: its text, its parameters, and what to make of its rows.

Nothing here does input or output. JSON travels as text in both directions, so that neither the
caller's connection nor its adapters matter.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, LiteralString, TypeAlias, TypeVar

from perdure import _json, errors
from perdure.records import (
    Attempt,
    Child,
    Enqueued,
    Execution,
    Leader,
    Outcome,
    RegisteredWorker,
    Shard,
    StoredError,
    SweepReport,
    TreeNode,
    Violation,
    WatchHealth,
    WatchRepair,
    Woken,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from perdure.records import Watch

T = TypeVar("T")
Row: TypeAlias = "tuple[Any, ...]"

ITEMS_PER_CALL = 1_000
BYTES_PER_CALL = 8 << 20


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One statement; a call that only reads may be sent again after a lost connection."""

    statement: LiteralString
    params: Sequence[Any]
    decode: Callable[[list[Row]], T]
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class RawCall(Generic[T]):
    """One statement for a `Wire`: numbered parameters, one row, and both are text as it travels."""

    statement: str
    params: Sequence[bytes | None]
    decode: Callable[[Sequence[bytes | None]], T]


def _json_or_none(text: str | bytes | None) -> Any:
    return None if text is None else _json.loads(text)


def _one(rows: list[Row]) -> Any:
    return rows[0][0]


def _nothing(rows: list[Row]) -> None:
    return None


_AS_TEXT = frozenset({"input", "output", "headers", "info"})


def _read(kind: Callable[..., T], row: Row) -> T:
    """A record from a row that has its fields in their order."""
    values: dict[str, Any] = dict(zip(_names(kind), row, strict=True))
    for name in values.keys() & _AS_TEXT:
        values[name] = _json_or_none(values[name])
    if "error" in values:
        values["error"] = StoredError.from_json(_json_or_none(values["error"]))
    return kind(**values)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _all(kind: Callable[..., T]) -> Callable[[list[Row]], list[T]]:
    return lambda rows: [_read(kind, row) for row in rows]


# Enqueueing

_PLAIN = frozenset({"task", "input", "queue", "priority"})


def is_plain(item: Mapping[str, Any]) -> bool:
    """Whether it has no key and no option that has to be read from JSON."""
    return item.keys() <= _PLAIN


def enqueue(item: Mapping[str, Any], notify: bool) -> Call[int]:
    """One plain item: twice as fast as a batch of it."""
    return Call(
        "select perdure.enqueue(%s::text, %s::jsonb, %s::text, %s::int, notify => %s::boolean)",
        [
            *(item["task"], _json.dumps(item.get("input", {})).decode()),
            *(item.get("queue"), item.get("priority"), notify),
        ],
        _one,
    )


def enqueue_many(items: bytes, notify: bool, start: int = 0) -> Call[list[Enqueued]]:
    """`items` is a JSON array of items; `notify`: wake idle workers at the commit.

    The answers are numbered from `start`.
    """

    def decode(rows: list[Row]) -> list[Enqueued]:
        ids, others = rows[0]
        answers = [Enqueued(item, id_, True, None) for item, id_ in enumerate(ids or (), start)]
        for place, code, message in _json_or_none(others) or ():
            error = errors.from_code(code, message) if code else None
            answers[place] = Enqueued(start + place, ids[place], False, error)
        return answers

    # as columns: most rows hold nothing but an id
    return Call(
        "select array_agg(id order by item),"
        " (json_agg(json_build_array(item, code, message)) filter (where not is_new))::text"
        " from perdure.enqueue_many(%s::jsonb, %s::boolean)",
        [items.decode(), notify],
        decode,
    )


def batches(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, bytes, bool]]:
    """JSON arrays of a size that one call may carry: first item's number, data, is it the last."""
    batch: list[bytes] = []
    start = size = 0
    for item in items:
        data = _json.dumps(item)
        if batch and (len(batch) == ITEMS_PER_CALL or size + len(data) > BYTES_PER_CALL):
            yield start, array(batch), False
            start += len(batch)
            batch, size = [], 0
        batch.append(data)
        size += len(data) + 1
    if batch:
        yield start, array(batch), True


def array(parts: Sequence[bytes]) -> bytes:
    """A JSON array of parts that are JSON already."""
    return b"[" + b",".join(parts) + b"]"


def define_tasks(tasks: Sequence[Mapping[str, Any]]) -> Call[int]:
    return Call("select perdure.define_tasks(%s::jsonb)", [_json.dumps(tasks).decode()], _one)


# Reading

_EXECUTION: LiteralString = """
select id, task, queue, priority, status, attempt, crashes, iteration, input::text, output::text,
  error::text, key, parent_id, parent_generation, position, is_finalize, root_id, worker_id, tags,
  headers::text, created_at, start_at, started_at, expires_at, finished_at, deadline_at,
  max_attempts, timeout, shard_key
"""


def get_execution(id_: int) -> Call[Execution]:
    def decode(rows: list[Row]) -> Execution:
        return _read(Execution, rows[0])

    return Call(f"{_EXECUTION} from perdure.get_execution(%s::bigint)", [id_], decode, is_read=True)


def status(id_: int) -> Call[Any]:
    statement: LiteralString = "select status from perdure.get_execution(%s::bigint)"
    return Call(statement, [id_], _one, is_read=True)


def executions(
    *,
    status: str | None,
    task: str | None,
    queue: str | None,
    parent_id: int | None,
    roots_only: bool,
    before: int | None,
    limit: int,
) -> Call[list[Execution]]:
    """The newest first."""
    statement: LiteralString = f"""{_EXECUTION} from perdure.executions
where (%s::text is null or status = %s)
  and (%s::text is null or task = %s)
  and (%s::text is null or queue = %s)
  and (%s::bigint is null or parent_id = %s)
  and (not %s::boolean or parent_id is null)
  and (%s::bigint is null or id < %s)
order by id desc
limit %s"""
    params = [
        *(status, status, task, task, queue, queue, parent_id, parent_id),
        *(roots_only, before, before, limit),
    ]
    return Call(statement, params, _all(Execution), is_read=True)


def outcomes(ids: Sequence[int]) -> Call[list[Outcome]]:
    """Of those that have ended."""
    return Call(
        "select id, status, output::text, error::text from perdure.outcomes(%s::bigint[])",
        [list(ids)],
        _all(Outcome),
        is_read=True,
    )


def children(parent: int, generation: int | None, after: int, limit: int) -> Call[list[Child]]:
    return Call(
        "select position, id, task, status, output::text, error::text"
        " from perdure.children(%s::bigint, %s::int, %s::int, %s::int) order by position",
        [parent, generation, after, limit],
        _all(Child),
        is_read=True,
    )


def finalize_inputs(
    parents: Sequence[int], generations: Sequence[int], limit: int
) -> Call[list[tuple[Any, list[Child]] | None]]:
    """For each parent its own output and its first children; None for one that is not there."""

    def decode(rows: list[Row]) -> list[tuple[Any, list[Child]] | None]:
        found: list[tuple[Any, list[Child]] | None] = [None] * len(parents)
        children: list[Child] = []
        for item, position, id_, task, status, output, error in rows:
            value = _json_or_none(output)
            if position is None:
                children = []
                found[item] = (value, children)
            else:
                stored = StoredError.from_json(_json_or_none(error))
                children.append(Child(position, id_, task, status, value, stored))
        return found

    return Call(
        "select item, position, id, task, status, output::text, error::text"
        " from perdure.finalize_inputs(%s::bigint[], %s::int[], %s::int)",
        [_bigints(parents), _bigints(generations), limit],
        decode,
        is_read=True,
    )


def tree(root: int, limit: int) -> Call[list[TreeNode]]:
    return Call(
        "select id, parent_id, depth, position, is_finalize, task, status, attempt, started_at,"
        " finished_at, error::text from perdure.tree(%s::bigint, %s::int)",
        [root, limit],
        _all(TreeNode),
        is_read=True,
    )


def tree_progress(root: int) -> Call[dict[str, int]]:
    statement: LiteralString = "select status, executions from perdure.tree_progress(%s::bigint)"
    return Call(statement, [root], lambda rows: dict(rows), is_read=True)


def attempts(id_: int) -> Call[list[Attempt]]:
    return Call(
        "select attempt, token, status, error::text, output::text, worker_id, started_at,"
        " ended_at from perdure.attempts(%s::bigint)",
        [id_],
        _all(Attempt),
        is_read=True,
    )


@dataclass(frozen=True, slots=True)
class Hello:
    """What a connection leads to."""

    version: str
    backend: int  # the server process that answered
    is_standby: bool


def hello() -> Call[Hello]:
    return Call(
        "select perdure.version(), pg_backend_pid(), pg_is_in_recovery()",
        [],
        lambda rows: Hello(*rows[0]),
        is_read=True,
    )


# What a session of one's own is told. Behind a pooler these would hit somebody else's.


def limit_session(ttl: float, idle: float) -> Call[None]:
    """Has the server end this session when nothing was heard of it for `idle` seconds.

    Within a statement or a transaction, for `ttl` seconds.
    """
    return Call(
        "select set_config('idle_session_timeout', %s, false),"
        " set_config('idle_in_transaction_session_timeout', %s, false),"
        " set_config('statement_timeout', %s, false)",
        [_ms(idle), _ms(ttl), _ms(ttl)],
        _nothing,
    )


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def watch_client(every: float) -> Call[None]:
    """Has the server look, also during a statement, whether this client is there."""
    statement: LiteralString = "select set_config('client_connection_check_interval', %s, false)"
    return Call(statement, [_ms(every)], _nothing)


def limit_silence(ttl: float) -> Call[None]:
    """Has the server hang up, also in the middle of an answer, on who takes nothing for so long."""
    statement: LiteralString = "select set_config('tcp_user_timeout', %s, false)"
    return Call(statement, [_ms(ttl)], _nothing)


Ears = Literal["perdure", "perdure_leadership"]
"""All events, or those alone that concern leaders: an enqueue wakes no candidate."""


def listen(channel: Ears) -> Call[None]:
    statement: LiteralString = f"listen {channel}"
    return Call(statement, [], _nothing)


def notify(channel: Ears, event: str) -> Call[None]:
    """By hand: the function that the engine has for it is not granted to anybody."""
    statement: LiteralString = (
        "select pg_notify(%s::text, jsonb_build_object('event', %s::text)::text)"
    )
    return Call(statement, [channel, event], _nothing)


# Leadership


@dataclass(frozen=True, slots=True)
class Election:
    """How it stands with one channel: the epoch of one's own leadership, None without."""

    channel: str
    epoch: int | None
    wait: float | None  # seconds after which to ask again, where that is known
    reason: str


def elect(
    channels: Sequence[str], holder: UUID, mode: str, ttl: float, purpose: str, name: str
) -> Call[list[Election]]:
    """In session mode the silence of who leads is limited to `ttl` by the very statement.

    Else the server would wait for longer for one that freezes as soon as it has won.
    """

    def decode(rows: list[Row]) -> list[Election]:
        return [
            Election(channel, epoch, None if wait_ms is None else wait_ms / 1000, reason)
            for channel, epoch, wait_ms, reason, _ in rows
        ]

    return Call(
        "select channel, epoch, wait_ms, reason, case when epoch is not null and %s::boolean"
        " then set_config('idle_session_timeout', %s, false) end from perdure.elect("
        "%s::text[], %s::uuid, %s::text, %s * interval '1 second', %s::text, %s::text)",
        [mode == "session", _ms(ttl), list(channels), holder, mode, ttl, purpose, name],
        decode,
    )


def ping(
    channels: Sequence[str], holder: UUID, epochs: Sequence[int], purpose: str
) -> Call[dict[str, bool]]:
    """Channel → whether it is led still."""
    return Call(
        "select channel, is_leader from perdure.ping(%s::text[], %s::uuid, %s::bigint[], %s::text)",
        [list(channels), holder, list(epochs), purpose],
        lambda rows: dict(rows),
    )


def resign(
    channels: Sequence[str], holder: UUID, epochs: Sequence[int], purpose: str
) -> Call[dict[str, bool]]:
    """Channel → whether it was led still, and is given back."""
    return Call(
        "select channel, is_resigned"
        " from perdure.resign(%s::text[], %s::uuid, %s::bigint[], %s::text)",
        [list(channels), holder, list(epochs), purpose],
        lambda rows: dict(rows),
    )


def guard(channel: str, holder: UUID, epoch: int, purpose: str) -> Call[None]:
    """Raises Fenced unless (holder, epoch) leads, and keeps it so until the transaction ends."""
    return Call(
        "select perdure.guard(%s::text, %s::uuid, %s::bigint, %s::text)",
        [channel, holder, epoch, purpose],
        _nothing,
    )


def request_resign(channels: Sequence[str], purpose: str) -> Call[int]:
    statement: LiteralString = "select perdure.request_resign(%s::text[], %s::text)"
    return Call(statement, [list(channels), purpose], _one)


def leaders(purpose: str | None, channel: str | None) -> Call[list[Leader]]:
    return Call(
        "select purpose, channel, mode, is_held, name, epoch, acquired_at, expires_at, backend"
        " from perdure.leaders where (%s::text is null or purpose = %s)"
        " and (%s::text is null or channel = %s) order by purpose desc, channel",
        [purpose, purpose, channel, channel],
        _all(Leader),
        is_read=True,
    )


# Workers, as others see them


def workers(is_alive_only: bool) -> Call[list[RegisteredWorker]]:
    return Call(
        "select machine_id, name, worker_id, is_alive, is_healthy, mode, queues, tasks, running,"
        " weight, ttl, registered_at, lost_at, expires_at, info::text"
        " from perdure.workers where is_alive or not %s::boolean order by machine_id",
        [is_alive_only],
        _all(RegisteredWorker),
        is_read=True,
    )


def shards(queue: str | None) -> Call[list[Shard]]:
    return Call(
        "select queue, number, machine_id, name, worker_id, epoch, acquired_at, next_id"
        " from perdure.shards where %s::text is null or queue = %s order by queue, number",
        [queue, queue],
        _all(Shard),
        is_read=True,
    )


def shard_queue(queue: str, shards: int, on_retry: str, rebalance: bool) -> Call[None]:
    return Call(
        "select perdure.shard_queue(%s::text, %s::int, %s::text, %s::boolean)",
        [queue, shards, on_retry, rebalance],
        _nothing,
    )


def set_worker_health(machine_id: int, healthy: bool) -> Call[bool]:
    statement: LiteralString = "select perdure.set_worker_health(%s::int, %s::boolean)"
    return Call(statement, [machine_id, healthy], _one)


# Acting on executions


def wake(
    task: str, key: str, output: bytes | None, error: bytes | None, key_scope: str | None
) -> Call[Woken]:
    texts = [None if data is None else data.decode() for data in (output, error)]
    return Call(
        "select id, status, output::text, error::text, is_woken from perdure.wake("
        "%s::text, %s::text, output => %s::jsonb, error => %s::jsonb, key_scope => %s::text)",
        [task, key, *texts, key_scope],
        lambda rows: _read(Woken, rows[0]),
    )


def cancel(id_: int, reason: str | None) -> Call[Any]:
    return Call("select perdure.cancel(%s::bigint, %s::text)", [id_, reason], _one)


def retry_finished(id_: int, detach: bool) -> Call[int]:
    statement: LiteralString = "select perdure.retry_finished(%s::bigint, detach => %s::boolean)"
    return Call(statement, [id_, detach], _one)


def sweep(channel: str | None, limit: int) -> Call[SweepReport]:
    return Call(
        "select promoted, recovered, timed_out, closed, moved, forgotten, more, deleted, skipped"
        " from perdure.sweep(%s::text, %s::int)",
        [channel, limit],
        lambda rows: SweepReport(*rows[0]),
    )


def sweep_led(channels: list[str], holder: Any, epochs: list[int], limit: int) -> Call[SweepReport]:
    return Call(
        "select promoted, recovered, timed_out, closed, moved, forgotten, more, deleted, skipped"
        " from perdure.sweep_led(%s::text[], %s::uuid, %s::bigint[], %s::int)",
        [channels, holder, epochs, limit],
        lambda rows: SweepReport(*rows[0]),
    )


def fsck() -> Call[list[Violation]]:
    return Call(
        "select invariant, id, detail from perdure.fsck()",
        [],
        _all(Violation),
        is_read=True,
    )


# Watched tables


def watch_table(watch: Watch) -> Call[int]:
    return Call(
        "select perdure.watch_table("
        "%s::text, %s::text, %s::text[], %s::text, %s::text[], %s::text)",
        [
            *(watch.table, watch.task, None if watch.columns is None else list(watch.columns)),
            *(watch.condition, list(watch.operations), watch.queue),
        ],
        _one,
    )


def unwatch_table(table: str, task: str) -> Call[bool]:
    return Call("select perdure.unwatch_table(%s::text, %s::text)", [table, task], _one)


def check_watches(table: str | None) -> Call[list[WatchHealth]]:
    return Call(
        "select watch, table_name, task, operation, problem from perdure.check_watches(%s::text)",
        [table],
        _all(WatchHealth),
        is_read=True,
    )


def repair_watches(table: str | None) -> Call[list[WatchRepair]]:
    return Call(
        "select table_name, task, operation, problem, result from perdure.repair_watches(%s::text)",
        [table],
        _all(WatchRepair),
    )


# The worker's conversation


def register_worker(
    name: str,
    queues: Sequence[str],
    tasks: Sequence[str],
    info: Mapping[str, Any],
    incarnation: UUID,
    mode: str,
    ttl: float,
    weight: int,
) -> Call[UUID]:
    return Call(
        "select perdure.register_worker(%s::text, %s::text[], %s::text[], %s::jsonb, %s::uuid,"
        " %s::text, %s * interval '1 second', %s::int)",
        [
            *(name, list(queues), list(tasks), _json.dumps(info).decode()),
            *(incarnation, mode, ttl, weight),
        ],
        _one,
    )


def ping_worker(worker: UUID) -> Call[int]:
    """How many workers could do what this one does, itself included."""
    return Call(
        "select perdure.ping_worker(%s::uuid), perdure.count_peers(%s::uuid)",
        [worker, worker],
        lambda rows: rows[0][1],
    )


def notify_ready(queues: Sequence[str] | None) -> Call[None]:
    names = None if queues is None else list(queues)
    return Call("select perdure.notify_ready(%s::text[])", [names], _nothing)


def resume_worker(worker: UUID, held: Sequence[int], call: int) -> Call[dict[int, int]]:
    """Id → token of the leases that are still held."""
    return Call(
        "select id, token from perdure.resume_worker(%s::uuid, %s::bigint[], %s::bigint)",
        [worker, list(held), call],
        lambda rows: dict(rows),
    )


def unregister_worker(worker: UUID) -> Call[int]:
    return Call("select perdure.unregister_worker(%s::uuid)", [worker], _one)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the engine made of one report."""

    id: int
    token: int
    result: str
    code: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an exchange; `judgements` has the reports that were not just recorded."""

    judgements: list[Judgement]
    claimed: list[list[Any]]
    gone: list[int]
    more: bool
    wait_ms: int | None
    after: bytes | None
    wake: bool = False


_EXCHANGED = (
    " from perdure.exchange($1::uuid, $2::jsonb, $3::int, null, null, $4::bigint[], $5::bigint,"
    " $6::jsonb)"
)
_REPLY = "select results, claimed, to_json(gone), more, wait_ms, next_after, wake"
EXCHANGE = _REPLY + _EXCHANGED
# A claim alone need not wait for the disk: one that a crash of the server takes back was never
# made, and no outcome can be recorded before it is on disk.
CLAIM = f"{_REPLY}, set_config('synchronous_commit', 'off', true){_EXCHANGED}"


def exchange(
    worker: UUID,
    outcomes: bytes | None,
    want: int,
    held: Sequence[int] | None,
    call: int,
    after: bytes | None,
) -> RawCall[Reply]:
    return RawCall(
        CLAIM if outcomes is None else EXCHANGE,
        [
            worker.hex.encode(),
            outcomes,
            b"%d" % want,
            None if held is None else _bigints(held).encode(),
            b"%d" % call,
            after,
        ],
        _reply,
    )


def _reply(row: Sequence[bytes | None]) -> Reply:
    results, claimed, gone, more, wait_ms, after, wake = row[:7]
    return Reply(
        [Judgement(**result) for result in _json_or_none(results) or ()],
        _json_or_none(claimed) or [],
        _json_or_none(gone) or [],
        more == b"t",
        None if wait_ms is None else int(wait_ms),
        after,
        wake == b"t",
    )


def finish(worker: UUID, outcomes: bytes) -> Call[list[Judgement]]:
    return Call(
        "select id, token, result, code, message from perdure.finish(%s::uuid, %s::jsonb)",
        [worker, outcomes.decode()],
        lambda rows: [Judgement(*row) for row in rows],
    )


def _bigints(ids: Sequence[int]) -> str:
    """As text, so that the statement's parameter types never vary and it is prepared once."""
    return "{" + ",".join(map(str, ids)) + "}"
