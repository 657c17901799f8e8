"""A tree of Perdure's executions in the terms of the recorded engine.

Every difference is translated here, and each translation notes the freedom that allows it; what
comes out is compared with what was recorded word by word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from golden.freedoms import Freedom
from golden.scenario import Json, Node, Scenario
from perdure import errors
from perdure.records import FINISHED, StoredError

SNAPSHOT = """
select e.id, e.root_id, e.task, e.status, e.iteration, e.output, e.error, e.parent_id, e.position,
  e.is_finalize,
  e.status = 'ready' and e.start_at > now() + interval '5 seconds',
  e.status = 'sleeping'
    and coalesce(e.expires_at - e.created_at >= interval '5 seconds', true),
  exists (select from perdure.closing as c where c.execution_id = e.id),
  (
    select count(*)
    from perdure.attempt as a
    where a.execution_id = e.id and a.status in ('failed', 'timed_out')
  )
from perdure.executions as e
where e.root_id = any(%s)
order by e.id
"""

_CLASSES = frozenset({"not_found", "timed_out", "cancelled"})
_STEP = re.compile(r"step (\d+) \((.*?)\) \w+: (.*)", re.DOTALL)
_ANCESTOR = re.compile(r"execution (\d+) ended (\w+)(?:: .*)?", re.DOTALL)
_STRANGER = re.compile(r".*does not know the task '(\w+)'.*")


class Row(NamedTuple):
    """One execution as the database shows it."""

    id: int
    root_id: int
    task: str
    status: str
    iteration: int
    output: Json
    error: dict[str, Any] | None
    parent_id: int | None
    position: int | None
    is_finalize: bool
    is_far: bool  # ready, but not due for a while
    is_long_sleep: bool
    has_debts: bool  # its end has not been told to all of its tree
    retries: int

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


class Tree:
    """The executions of one scenario by path, at one moment."""

    def __init__(
        self,
        scenario: Scenario,
        rows: Iterable[Row],
        *,
        ended_by_body: frozenset[int] = frozenset(),
        use: Callable[[Freedom], None] = lambda _: None,
    ) -> None:
        self._scenario = scenario
        self._ended_by_body = ended_by_body  # loops cancelled by (or at) an iteration
        self._use = use
        self.rows: dict[str, Row] = {}
        self.nodes: dict[str, Node] = {}
        self.path_of: dict[int, str] = {}
        for row in rows:
            if row.parent_id is None:
                path, node = "/", scenario.root
            else:
                parent = self.path_of[row.parent_id]
                part = "f" if row.is_finalize else str(row.position)
                path, node = _join(parent, part), dict(self.nodes[parent].below())[part]
            self.rows[path], self.nodes[path], self.path_of[row.id] = row, node, path

    def listed(self) -> list[str]:
        """The paths of what the recorded engine stores as executions."""
        return [path for path, node in self.nodes.items() if node.kind != "function"]

    def children(self, path: str) -> list[str]:
        """The paths of children or steps that exist, in order."""
        found: list[str] = []
        while (child := _join(path, str(len(found)))) in self.rows:
            found.append(child)
        return found

    # Records

    def record(self, path: str, runs: Callable[[int], int]) -> dict[str, Any]:
        """What FORMAT calls the record of an execution; `runs` counts starts of bodies by id."""
        row, node = self.rows[path], self.nodes[path]
        record = {"name": node.name, **self.outcome(path), "runs": runs(row.id)}
        if row.position is not None:
            record["index"] = row.position
        if row.is_finalize:
            record["isFinalize"] = True
        if node.kind == "loop":
            return record
        finalize = self.rows.get(_join(path, "f"))
        record["retryAttempts"] = row.retries
        if self.children(path):
            record["waitedForChildren"] = True
        if finalize is not None:
            record["waitedForFinalize"] = True
            if not self.children(path) and self._finalize(node).kind != "function":
                self._use(Freedom.EMPTY_WAIT)
                record["waitedForChildren"] = True
        if node.finalize is not None and node.finalize.kind == "function":
            record["finalizeRuns"] = 0 if finalize is None else runs(finalize.id)
            if finalize is not None:
                self._use(Freedom.FINALIZE_RUN)
        if node.kind == "sleeping":
            self._use(Freedom.SLEEPING)
        return record

    def outcome(self, path: str) -> dict[str, Any]:
        """Status, and output or error."""
        status = self.status(path)
        if status == "completed":
            return {"status": status, "output": self.output(path)}
        return {"status": status, "error": self.error(path)}

    def child_of_parent(self, path: str) -> dict[str, Any]:
        """As it stands in a parent's output, or in a finalize's input."""
        return {"taskId": self.nodes[path].name, "executionId": "<id>", **self.outcome(path)}

    def status(self, path: str) -> str:
        row = self.rows[path]
        if self.nodes[path].kind == "loop" and (
            row.status in ("failed", "timed_out")
            or (row.status == "cancelled" and row.id in self._ended_by_body)
        ):
            self._use(Freedom.LOOP)
            return "finalize_failed"
        return row.status

    def output(self, path: str) -> Json:
        """The output of a completed execution."""
        row, node = self.rows[path], self.nodes[path]
        if node.kind == "loop":
            self._use(Freedom.LOOP)
            if not row.output["done"]:
                return {"isSuccess": False}
            return {"isSuccess": True, "output": row.output["output"]}
        if node.kind == "parent" and node.finalize is None:
            self._use(Freedom.OWN_OUTPUT)
            children = [self.child_of_parent(child) for child in self.children(path)]
            return {"output": row.output, "children": children}
        handed_on = path
        if node.kind == "sequence":
            handed_on = self.children(path)[-1]
        elif node.kind == "parent":
            handed_on = _join(path, "f")
        if handed_on == path:
            return row.output
        assert row.output == self.rows[handed_on].output, f"{path} has not the output of its last"
        return self.output(handed_on)

    def error(self, path: str) -> dict[str, Any]:
        """The error of an execution that ended otherwise than completed."""
        row, node = self.rows[path], self.nodes[path]
        assert row.error is not None, f"{path} ended {row.status} without an error"
        told = self._plain(row.error)
        message = told["message"]
        status = self.status(path)
        if node.kind == "loop" and status == "finalize_failed":
            text = f"Iteration task failed [taskId={node.iteration_name}]: {self._engine(told)}"
            return {"errorType": "generic", "message": text, "isRetryable": False}
        if status == "finalize_failed" and node.kind == "sequence":
            return {**told, "message": self._step_text(path, row)}
        if status == "finalize_failed" and self._finalize(node).kind == "function":
            assert row.error == self.rows[_join(path, "f")].error, f"{path} has another error"
            plain = {"errorType": "generic", "message": self._engine(told), "isRetryable": False}
            if told != plain | {"message": message}:
                self._use(Freedom.FINALIZE_ERROR)
            return plain
        if status == "finalize_failed":
            assert row.error == self.rows[_join(path, "f")].error, f"{path} has another error"
            return self.error(_join(path, "f"))
        if row.status == "cancelled" and (match := _ANCESTOR.fullmatch(message)):
            return {**told, "message": self._ancestor_text(path, int(match[1]))}
        if node.kind == "sleeping" and row.status == "timed_out":
            assert not told["isRetryable"]
            self._use(Freedom.RETRY_FLAG)
            return {**told, "message": self._engine(told), "isRetryable": True}
        if match := _STRANGER.fullmatch(message):
            self._use(Freedom.UNKNOWN_CHILD)
            self._use(Freedom.TEXTS)
            text = f"Child task not found [taskId={match[1]}]"
            return {"errorType": "not_found", "message": text, "isRetryable": False}
        return {**told, "message": self._engine(told)}

    def previous_error(self, error: StoredError) -> dict[str, Any]:
        """What a body is told of its previous attempt."""
        told = self._plain(
            {"type": error.type, "message": error.message, "retryable": error.retryable}
        )
        return {**told, "message": self._engine(told)}

    def _plain(self, error: dict[str, Any]) -> dict[str, Any]:
        """A stored error, its own words kept but for the names of tasks."""
        return {
            "errorType": error["type"] if error["type"] in _CLASSES else "generic",
            "message": self._own_names(error["message"]),
            "isRetryable": error["retryable"],
        }

    def _engine(self, told: dict[str, Any]) -> str:
        """The engine's own plain texts in the recorded ones."""
        message: str = told["message"]
        match told["errorType"], message:
            case "cancelled", "the execution was cancelled":
                text = "Task execution cancelled"
            case "timed_out", "the attempt timed out" | "nobody woke it in time":
                text = "Task execution timed out"
            case _:
                return message
        self._use(Freedom.TEXTS)
        return text

    def _step_text(self, path: str, row: Row) -> str:
        step = self.children(path)[-1]
        last = self.rows[step]
        assert row.error is not None
        assert last.error is not None
        match = _STEP.fullmatch(row.error["message"])
        assert match is not None, row.error
        assert match[1] == str(last.position), row.error
        assert match[2] == last.task, row.error
        assert match[3] == last.error["message"], row.error
        self._use(Freedom.TEXTS)
        name, message = self.nodes[path].name, self.error(step)["message"]
        return f"Sequential task failed [parentTaskId={name}] [index={last.position}]: {message}"

    def _ancestor_text(self, path: str, named: int) -> str:
        parent_id = self.rows[path].parent_id
        assert parent_id is not None
        parent = self.path_of[parent_id]
        above, id_ = {parent_id}, self.rows[parent].parent_id
        while id_ is not None:
            above.add(id_)
            id_ = self.rows[self.path_of[id_]].parent_id
        assert named in above, f"{path} names {named}, which is not above it"
        self._use(Freedom.AT_ONCE)
        name, message = self.nodes[parent].name, self.error(parent)["message"]
        return f"Parent task failed [parentTaskId={name}] [parentExecutionId=<id>]: {message}"

    def _own_names(self, text: str) -> str:
        return re.sub(rf"\b{re.escape(self._scenario.id)}/(\w+)(/finalize)?", r"\1", text)

    def _finalize(self, node: Node) -> Node:
        assert node.finalize is not None, f"{node.name} has no finalize"
        return node.finalize

    # Inputs

    def incoming(self, path: str, given: Json) -> Json:
        """The input of an execution; a step gets the previous output in its recorded shape."""
        row = self.rows[path]
        if row.parent_id is None or row.is_finalize:
            return given
        parent = self.path_of[row.parent_id]
        if self.nodes[parent].kind != "sequence":
            return given
        if row.position == 0:
            if self.nodes[parent].validate is not None:  # that saw the recorded shape already
                return given
            return self.incoming(parent, given)
        previous = _join(parent, str((row.position or 0) - 1))
        return self.output(previous) if self.nodes[previous].is_shaped else given

    # Rest

    def is_settled(self) -> bool:
        """True when all have ended, and all consequences are applied."""
        return bool(self.rows) and all(
            row.is_finished and not row.has_debts for row in self.rows.values()
        )

    def is_quiet(self, is_held: Callable[[int], bool]) -> bool:
        """True when nothing moves by itself soon; `is_held` tells that a body sits and waits."""
        return bool(self.rows) and all(self._rests(path, is_held) for path in self.rows)

    def _rests(self, path: str, is_held: Callable[[int], bool]) -> bool:
        row = self.rows[path]
        if row.has_debts:
            return False
        if row.is_finished:
            return True
        if row.parent_id is not None and self.rows[self.path_of[row.parent_id]].is_finished:
            return False
        match row.status:
            case "running":
                return is_held(row.id)
            case "ready":
                return row.is_far
            case "sleeping":
                return row.is_long_sleep
        below = (self.rows.get(_join(path, part)) for part, _ in self.nodes[path].below())
        return any(child is not None and not child.is_finished for child in below)


def outside_error(scenario: Scenario, error: errors.PerdureError, task: str, key: str = "") -> Any:
    """What a call from outside was refused with; `task` and `key` are what it named."""
    owner = next((node.name for _, node in scenario.paths() if node.unique_id == key), None)
    message, kind = str(error), "generic"
    if isinstance(error, errors.UnknownTask):
        kind, message = "not_found", f"Task not found [taskId={task}]"
    elif isinstance(error, errors.KeyNotFound) and owner is None:
        kind = "not_found"
        message = f"Sleeping task execution not found [sleepingTaskUniqueId={key}]"
    elif isinstance(error, errors.KeyNotFound):
        kind, message = (
            "not_found",
            (
                f"Sleeping task execution belongs to another task [providedTaskId={task}]"
                f" [sleepingTaskId={owner}] [sleepingTaskUniqueId={key}]"
            ),
        )
    return {"errorType": kind, "message": message, "isRetryable": False}


def expected_nodes(
    scenario: Scenario, use: Callable[[Freedom], None]
) -> tuple[dict[str, Any], set[str]]:
    """The recorded nodes and those never created; a loop's iterations folded into the loop."""
    loops = {path for path, node in scenario.paths() if node.kind == "loop"}
    nodes: dict[str, Any] = {}
    runs: Counter[str] = Counter()
    for path, record in scenario.expected["nodes"].items():
        loop = loop_of(path)
        if loop is not None:
            runs[loop] += record["runs"]
            continue
        if path in loops:
            use(Freedom.LOOP)
            kept = ("name", "status", "output", "error", "index", "isFinalize")
            record = {key: record[key] for key in kept if key in record}
        nodes[path] = dict(record)
    for path in loops & nodes.keys():
        nodes[path]["runs"] = runs[path]
    never = {path for path in scenario.expected["neverCreated"] if loop_of(path) is None}
    return nodes, never


def loop_of(path: str) -> str | None:
    """The path of the loop, for the path of an iteration."""
    match = re.fullmatch(r"(.*)/it\d+", path)
    return None if match is None else match[1] or "/"


def _join(path: str, part: str) -> str:
    return f"/{part}" if path == "/" else f"{path}/{part}"
