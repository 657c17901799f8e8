"""The tasks of one scenario, made with the client; their bodies do what the scripts say."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from golden.freedoms import Freedom
from golden.scenario import Behaviour, Json, Node, Scenario
from golden.terms import Tree
from perdure import (
    App,
    Cancelled,
    Fail,
    Finalize,
    Options,
    Task,
    TaskCall,
    TimedOut,
    again,
    current,
    done,
    spawn,
)
from perdure._unset import UNSET, Unset

QUEUE = "golden"
_SHORTEST = 1.0

_strangers = App()  # whose tasks no worker of ours knows


class Stage:
    """Defines a scenario's tasks in an app, and knows what their bodies are doing."""

    def __init__(self, app: App, scenario: Scenario, look: Callable[[int], Any]) -> None:
        self._app = app
        self._scenario = scenario
        self._look = look
        self._tasks: dict[tuple[str, bool], Task[..., Any, Any]] = {}
        self._held: dict[int, str | None] = {}  # execution: the gate at which its body sits
        self._gates: dict[str, asyncio.Event] = {}
        self._ended_by_body: set[int] = set()
        self.starts: Counter[tuple[int, int]] = Counter()  # by execution and iteration
        self.freedoms: Counter[Freedom] = Counter()
        self._has_shapes = any(
            step.is_shaped for _, node in scenario.paths() for step in node.steps[:-1]
        )
        self._define(scenario.root)

    # What goes on

    def use(self, freedom: Freedom) -> None:
        self.freedoms[freedom] += 1

    def runs(self, execution: int) -> int:
        """Starts of the body of an execution."""
        return sum(count for (id_, _), count in self.starts.items() if id_ == execution)

    def is_held(self, execution: int) -> bool:
        if execution not in self._held:
            return False
        gate = self._held[execution]
        return gate is None or not self._gate(gate).is_set()

    def open(self, gate: str) -> None:
        self._gate(gate).set()

    def iteration_cancelled(self, loop: int) -> None:
        """The cancel that follows is meant for the iteration."""
        self._ended_by_body.add(loop)

    async def tree(self, root: int, use: Callable[[Freedom], None] = lambda _: None) -> Tree:
        rows = await self._look(root)
        return Tree(self._scenario, rows, ended_by_body=frozenset(self._ended_by_body), use=use)

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    # Tasks

    def root_call(self) -> TaskCall[Any]:
        """The call to enqueue; UnknownTask where no task has the root's name."""
        root = self._scenario.root
        if root.kind == "unregistered":
            return self._app.call(self.name(root))
        return self._call(root, self._scenario.input, self._scenario.options)

    def name(self, node: Node, *, is_finalize: bool = False) -> str:
        """The task's name in the database: unique among all scenarios."""
        return f"{self._scenario.id}/{node.name}" + ("/finalize" if is_finalize else "")

    def _call(
        self,
        node: Node,
        given: Json | Unset,
        options: dict[str, Any],
        *,
        is_finalize: bool = False,
    ) -> TaskCall[Any]:
        call = self._tasks[node.name, is_finalize].with_input(given)
        told: Options = {}
        if (sleep := options.get("sleepMsBeforeRun", node.sleep_ms)) > 0:
            told["delay"] = sleep / 1000
        if node.unique_id is not None:
            told["key"] = node.unique_id
        if node.kind != "loop":  # recorded loops are made of parents, which take these: no effect
            if (timeout := options.get("timeoutMs")) is not None:
                told["timeout"] = _seconds(timeout) if node.kind != "sleeping" else timeout / 1000
            if (retry := options.get("retry")) is not None:
                told.update(_retries(retry))
        return call.options(**told)

    def _define(self, node: Node, *, is_finalize: bool = False) -> None:
        if (node.name, is_finalize) in self._tasks:
            return
        for part, below in node.below():
            self._define(below, is_finalize=part == "f")
        self._tasks[node.name, is_finalize] = self._made(node, is_finalize)

    def _made(self, node: Node, is_finalize: bool) -> Task[..., Any, Any]:
        name = self.name(node, is_finalize=is_finalize)

        async def body(value: Any, /) -> Any:
            self._note_start()
            return await self._run(node, await self._incoming(node, value))

        async def finalize(record: Finalize) -> Any:
            self._note_start()
            return await self._run(node, await self._finalize_input(record))

        timeout = _seconds(node.timeout_ms) if node.kind != "sleeping" else node.timeout_ms / 1000
        options = {"queue": QUEUE, "timeout": timeout, **_retries(node.retry)}
        validate = self._validator(node)
        match node.kind:
            case "sleeping":
                return self._app.sleeping(name=name, queue=QUEUE, timeout=timeout)(body)
            case "unregistered":
                return _strangers.tasks.get(name) or _strangers.task(name=name)(body)
            case "sequence":
                steps = [self._call(step, UNSET, {}) for step in node.steps]
                return self._app.sequence(name, steps, queue=QUEUE, validate=validate)
            case "loop":
                return self._app.loop(
                    max_iterations=node.max_iterations,
                    every=node.sleep_ms / 1000,
                    name=name,
                    validate=validate,
                    **options,
                )(body)
            case "function":
                return self._app.task(name=name, queue=QUEUE)(finalize)
        if is_finalize:
            return self._app.task(name=name, **options)(finalize)
        return self._app.task(name=name, validate=validate, **options)(body)

    def _validator(self, node: Node) -> Callable[[Any], Any] | None:
        if node.validate is None:
            return None
        kind, text = node.validate

        async def validate(value: Any) -> Any:
            if kind == "reject":
                raise ValueError(text)
            return _append(await self._shaped(value), text)

        return validate

    async def _incoming(self, node: Node, value: Any) -> Any:
        return value if node.validate is not None else await self._shaped(value)

    async def _shaped(self, value: Any) -> Any:
        """The input as the recorded engine would hand it to a step."""
        if not self._has_shapes:
            return value
        tree = await self.tree(current().root_id, self.use)
        return tree.incoming(tree.path_of[current().execution_id], value)

    async def _finalize_input(self, record: Finalize) -> Any:
        tree = await self.tree(current().root_id, self.use)
        children = []
        async for child in record.children:
            path = tree.path_of[child.id]
            row = tree.rows[path]
            told = (child.position, child.status, child.output)
            assert told == (row.position, row.status, row.output), f"{told} is told of {path}"
            children.append(tree.child_of_parent(path))
        return {"output": record.output, "children": children}

    # Bodies

    def _note_start(self) -> None:
        self.starts[current().execution_id, current().iteration] += 1

    async def _run(self, node: Node, value: Any) -> Any:
        script = node.script
        if node.kind == "loop":
            script = _at(node.iteration_scripts, current().iteration)
        result = await self._do(_at(script, current().attempt - 1), value)
        if node.kind != "parent":
            return result
        children = [
            self._call(child.node, value if child.passes_input else child.input, child.options)
            for child in node.children
        ]
        finalize = None
        if node.finalize is not None:
            finalize = self._call(node.finalize, UNSET, {}, is_finalize=True)
        return spawn(children, output=result, finalize=finalize)

    async def _do(self, behaviour: Behaviour, value: Any) -> Any:
        match behaviour:
            case ["ok", output]:
                return output
            case ["echo"]:
                return value
            case ["append", text]:
                return _append(value, text)
            case ["pad", text, times]:
                return text * times
            case ["ctx"]:
                return await self._context()
            case ["summary"]:
                return _summary(value)
            case ["statuses"]:
                return [child["status"] for child in value["children"]]
            case ["sum"]:
                return _sum(value)
            case ["require_all", text, then]:
                for child in value["children"]:
                    if child["status"] != "completed":
                        raise Fail(f"{text}: {child['taskId']} {child['status']}")
                return await self._do(then, value)
            case ["again"]:
                return again()
            case ["done", output]:
                return done(output)
            case ["done_echo"]:
                return done(value)
            case ["fail", text, is_retryable]:
                raise Fail(text, retryable=is_retryable)
            case ["throw", text]:
                raise RuntimeError(text)
            case ["throw_cancelled", text]:
                self._ended_by_body.add(current().execution_id)
                raise Cancelled(text)
            case ["throw_timed_out", text]:
                raise TimedOut(text)
            case ["throw_not_found", text]:
                raise Fail(text, error_type="not_found")
            case ["timeout"]:
                return await asyncio.sleep(3600)
            case ["block"]:
                async with self._holding(None):
                    return await asyncio.sleep(3600)
            case ["hold", gate, then]:
                async with self._holding(gate):
                    await self._gate(gate).wait()
                return await self._do(then, value)
        raise NotImplementedError(behaviour)

    @contextlib.asynccontextmanager
    async def _holding(self, gate: str | None) -> AsyncIterator[None]:
        execution = current().execution_id
        self._held[execution] = gate
        try:
            yield
        finally:
            del self._held[execution]

    async def _context(self) -> Json:
        context = current()
        error = context.previous_error
        tree = Tree(self._scenario, (), use=self.use)
        told = None if error is None else tree.previous_error(error)
        return {"attempt": context.attempt - 1, "prevError": told}


def _seconds(timeout_ms: float) -> float:
    """A body's timeout, at least a second: a busy machine is no reason to time out."""
    return max(timeout_ms / 1000, _SHORTEST)


def _retries(retry: dict[str, Any] | None) -> Any:
    """Freedom 14: attempts count runs, the recorded ones count retries."""
    if retry is None:
        return {"max_attempts": 1}
    options = {
        "max_attempts": retry["maxAttempts"] + 1,
        "retry_delay": retry.get("baseDelayMs", 0) / 1000,
        "retry_multiplier": retry.get("delayMultiplier", 1),
        "retry_jitter": 0,
    }
    if "maxDelayMs" in retry:
        options["retry_max_delay"] = retry["maxDelayMs"] / 1000
    return options


def _at(scripts: list[Any], index: int) -> Any:
    return scripts[min(index, len(scripts) - 1)]


def _append(value: Any, text: str) -> str:
    if value is None:
        return text
    return (value if isinstance(value, str) else "*") + text


def _summary(value: Any) -> Json:
    children = [
        {"task": child["taskId"], "status": child["status"]}
        | {key: child[key] for key in ("output", "error") if key in child}
        for child in value["children"]
    ]
    return {"output": value["output"], "children": children}


def _sum(value: Any) -> Json:
    outputs = [child.get("output") for child in value["children"]]
    return sum(o for o in outputs if isinstance(o, (int, float)) and not isinstance(o, bool))
