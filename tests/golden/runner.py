"""Plays scenarios on Perdure: through the client, on real workers, with events from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from golden.freedoms import REASONS, Freedom
from golden.scenario import Action, Json, Scenario
from golden.stage import QUEUE, Stage
from golden.terms import SNAPSHOT, Row, Tree, expected_nodes, loop_of, outside_error
from perdure import App, Client, PerdureError, Worker

_AT_ONCE = 24  # scenarios: many, and yet a time-out of 200 ms means what it says
_LOOK_EVERY = 0.02
_LONGEST = 60.0
_SIZES = ("maxInputBytes", "maxOutputBytes")


@dataclass(slots=True)
class Verdict:
    """What came of one scenario."""

    id: str
    differences: list[str] = field(default_factory=list)
    freedoms: dict[int, int] = field(default_factory=dict)
    skipped: str | None = None


def payload_limit(scenario: Scenario) -> int | None:
    """The setting that the scenario asks for; Perdure has one for inputs and outputs."""
    return min((scenario.limits[name] for name in _SIZES if name in scenario.limits), default=None)


def play_all(dsn: str, scenarios: Sequence[Scenario]) -> list[Verdict]:
    """Plays the scenarios, which want the same limit, in one database."""
    with psycopg.connect(dsn) as conn:
        if (limit := payload_limit(scenarios[0])) is not None:
            conn.execute("update perdure.config set payload_limit = %s", [limit])
    return asyncio.run(_play_all(dsn, scenarios))


async def _play_all(dsn: str, scenarios: Sequence[Scenario]) -> list[Verdict]:
    verdicts = [Verdict(scenario.id) for scenario in scenarios]
    slots = asyncio.Semaphore(_AT_ONCE)
    app = App(dsn)
    async with app, Client(app.tasks, dsn) as outside, _observing(dsn) as observer:
        app.task(name="golden", queue=QUEUE)(_nothing)  # a worker wants one at least
        plays = []
        for scenario, verdict in zip(scenarios, verdicts, strict=True):
            if scenario.has_too_many_children:
                verdict.skipped = f"freedom {Freedom.LIMITS:d}: {REASONS[Freedom.LIMITS]}"
                verdict.freedoms[Freedom.LIMITS] = 1
            else:
                plays.append(_Play(app, outside, scenario, observer, verdict))
        workers = [
            Worker(app, queues=[QUEUE], concurrency=500, name=name, install_signals=False)
            for name in ("one", "two")
        ]
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
            await asyncio.gather(*(play.run(slots) for play in plays))
            for worker in workers:
                worker.cancel()
        damage = await app.fsck()
        assert not damage, damage
    return verdicts


async def _nothing() -> None: ...


class _Observer:
    """Snapshots of trees: one statement at a time serves all who ask."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn
        self._asking: list[tuple[int, asyncio.Future[list[Row]]]] = []

    async def look(self, root: int) -> list[Row]:
        """The tree as it is after the call began."""
        answer: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._asking.append((root, answer))
        return await answer

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            asking, self._asking = self._asking, []
            if not asking:
                continue
            found: dict[int, list[Row]] = {root: [] for root, _ in asking}
            cursor = await self._conn.execute(SNAPSHOT, [list(found)])
            for row in map(Row._make, await cursor.fetchall()):
                found[row.root_id].append(row)
            for root, answer in asking:
                if not answer.done():
                    answer.set_result(found[root])


@contextlib.asynccontextmanager
async def _observing(dsn: str) -> AsyncIterator[_Observer]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        observer = _Observer(conn)
        task = asyncio.create_task(observer.run())
        try:
            yield observer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Play:
    """One scenario from its enqueue to the comparison."""

    def __init__(
        self,
        app: App,
        outside: Client,
        scenario: Scenario,
        observer: _Observer,
        verdict: Verdict,
    ) -> None:
        self._client = outside  # workers read over the app's connection: none waits for the other
        self._scenario = scenario
        self._verdict = verdict
        self._stage = Stage(app, scenario, observer.look)
        self._results: list[Json] = [None] * len(scenario.actions)
        self._done: set[int] = set()
        self._since: dict[int, float] = {}  # action: since when its conditions hold

    async def run(self, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                async with asyncio.timeout(_LONGEST):
                    await self._play()
            except Exception:
                self._verdict.differences.append(traceback.format_exc())
        self._verdict.freedoms = {int(k): n for k, n in self._stage.freedoms.items()}

    async def _play(self) -> None:
        try:
            handle = await self._client.enqueue(self._stage.root_call())
        except PerdureError as error:
            told = outside_error(self._scenario, error, self._scenario.root.name)
            self._stage.use(Freedom.TEXTS)
            self._compare({"enqueueError": told}, {}, {"/"})
            return
        while True:
            tree = await self._stage.tree(handle.id)
            if await self._act(tree):
                continue
            if tree.is_settled() and not self._since:
                break
        outcome = await handle.wait(timeout=1)
        assert outcome.status == tree.rows["/"].status
        tree = await self._stage.tree(handle.id, self._stage.use)
        records = {path: tree.record(path, self._stage.runs) for path in tree.listed()}
        missing = {path for path, _ in self._scenario.paths()} - records.keys()
        self._compare({"rootStatus": tree.status("/")}, records, missing)

    # Actions

    async def _act(self, tree: Tree) -> bool:
        """Performs the first action that is due."""
        for number, action in enumerate(self._scenario.actions):
            if number in self._done:
                continue
            if not all(self._holds(tree, condition) for condition in action.when):
                self._since.pop(number, None)
                continue
            since = self._since.setdefault(number, time.monotonic())
            if time.monotonic() - since >= action.after:
                del self._since[number]
                self._done.add(number)
                self._results[number] = await self._perform(tree, action)
                return True
        return False

    def _holds(self, tree: Tree, condition: dict[str, Any]) -> bool:
        match condition:
            case {"quiet": True}:
                return tree.is_quiet(self._stage.is_held)
            case {"settled": True}:
                return tree.is_settled()
            case {"action": number}:
                return number in self._done
            case {"started": path}:
                runs: int = condition.get("runs", 1)
                return self._starts(tree, path) >= runs
            case {"exists": path}:
                return self._exists(tree, path)
            case {"finished": path}:
                return self._is_finished(tree, path)
            case {"status": [path, status]}:
                return self._has_status(tree, path, status)
        raise NotImplementedError(condition)

    def _starts(self, tree: Tree, path: str) -> int:
        if (loop := loop_of(path)) is None:
            return self._stage.runs(tree.rows[path].id) if path in tree.rows else 0
        return self._stage.starts[tree.rows[loop].id, _number(path)] if loop in tree.rows else 0

    def _exists(self, tree: Tree, path: str) -> bool:
        if (loop := loop_of(path)) is None:
            return path in tree.rows
        return loop in tree.rows and tree.rows[loop].iteration >= _number(path)

    def _is_finished(self, tree: Tree, path: str) -> bool:
        if (loop := loop_of(path)) is None:
            return path in tree.rows and tree.rows[path].is_finished
        row = tree.rows.get(loop)
        return row is not None and (row.is_finished or row.iteration > _number(path))

    def _has_status(self, tree: Tree, path: str, status: str) -> bool:
        row = tree.rows.get(loop_of(path) or path)
        if row is None:
            return False
        node = tree.nodes[loop_of(path) or path]
        live = {"ready", "running", "waiting_for_children", "waiting_for_finalize"}
        if node.kind == "loop" and not row.is_finished:
            return status in live
        if node.kind == "sleeping" and row.status == "sleeping":
            return status == "running"
        is_in_function = node.finalize is not None and node.finalize.kind == "function"
        if is_in_function and row.status == "waiting_for_finalize":
            return status == "waiting_for_children"
        return tree.status(loop_of(path) or path) == status

    async def _perform(self, tree: Tree, action: Action) -> Json:
        match action.do:
            case ["open", gate]:
                self._stage.open(gate)
                return {"ok": True}
            case ["cancel", path]:
                row = tree.rows.get(loop_of(path) or path)
                if row is None:
                    return {"skipped": "no such node"}
                if loop_of(path) is not None:
                    self._stage.iteration_cancelled(row.id)
                await self._client.cancel(row.id)
                return {"ok": True}
            case ["wake", task, key, told]:
                return await self._wake(tree, task, key, told)
        raise NotImplementedError(action.do)

    async def _wake(self, tree: Tree, task: str, key: str, told: dict[str, Any]) -> Json:
        name = f"{self._scenario.id}/{task}"
        try:
            if told["status"] == "completed":
                woken = await self._client.wake(name, key, told.get("output"))
            else:
                woken = await self._client.wake(name, key, error=told["error"])
        except PerdureError as error:
            self._stage.use(Freedom.TEXTS)
            return {"error": outside_error(self._scenario, error, task, key)}
        tree = await self._stage.tree(tree.rows["/"].id, self._stage.use)
        path = tree.path_of[woken.id]
        row = tree.rows[path]
        assert (woken.status, woken.output) == (row.status, row.output), f"{woken} is told of {row}"
        return tree.outcome(path)

    # Comparing

    def _compare(self, result: dict[str, Any], records: dict[str, Any], missing: set[str]) -> None:
        expected = self._scenario.expected
        nodes, never = expected_nodes(self._scenario, self._stage.use)
        for name in ("enqueueError", "rootStatus"):
            self._same(name, expected.get(name), result.get(name))
        for path in sorted(nodes.keys() | records.keys()):
            recorded, record = nodes.get(path, {}), records.get(path, {})
            for name in sorted(recorded.keys() | record.keys()):
                self._same(f"{path} {name}", recorded.get(name), record.get(name))
        self._same("never created", sorted(never), sorted(missing))
        if "actions" in expected:
            self._same("actions", expected["actions"], self._results)

    def _same(self, what: str, recorded: Json, found: Json) -> None:
        is_loose = self._scenario.has_loose_messages
        texts = [_canonical(value, is_loose=is_loose) for value in (recorded, found)]
        if texts[0] != texts[1]:
            self._verdict.differences.append(f"{what}: recorded {texts[0]}, found {texts[1]}")


def _number(path: str) -> int:
    return int(path.rpartition("/it")[2])


def _canonical(value: Json, *, is_loose: bool) -> str:
    """The value as text: keys sorted, 1.0 as 1, and loose messages by their presence only."""

    def plain(part: Json) -> Json:
        if isinstance(part, dict):
            if is_loose and {"errorType", "message"} <= part.keys():
                part = part | {"message": bool(part["message"])}
            return {key: plain(value) for key, value in part.items()}
        if isinstance(part, list):
            return [plain(value) for value in part]
        if isinstance(part, float) and part.is_integer():
            return int(part)
        return part

    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
