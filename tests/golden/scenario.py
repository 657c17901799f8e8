"""The scenarios of a golden file, read into records; README.md tells the format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Behaviour: TypeAlias = "list[Any]"
Json: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Child:
    """One entry of a parent's children."""

    node: Node
    input: Json
    passes_input: bool
    options: dict[str, Any]


@dataclass(eq=False, slots=True)
class Node:
    """One task definition; a `ref` is the very same object at another path."""

    name: str
    kind: str
    timeout_ms: float = 10_000
    sleep_ms: float = 0
    retry: dict[str, Any] | None = None
    validate: list[str] | None = None
    script: list[Behaviour] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    finalize: Node | None = None
    steps: list[Node] = field(default_factory=list)
    unique_id: str | None = None
    max_iterations: int = 0
    iteration_name: str = ""
    iteration_scripts: list[list[Behaviour]] = field(default_factory=list)

    def below(self) -> Iterator[tuple[str, Node]]:
        """What may be spawned by it: the last part of the path, and the node."""
        for index, child in enumerate(self.children):
            yield str(index), child.node
        for index, step in enumerate(self.steps):
            yield str(index), step
        if self.finalize is not None:
            yield "f", self.finalize

    @property
    def is_shaped(self) -> bool:
        """True when its recorded output has, or hands on, a shape that Perdure's has not."""
        if self.kind == "loop":
            return True
        if self.kind == "parent":
            return self.finalize is None or self.finalize.is_shaped
        return self.kind == "sequence" and self.steps[-1].is_shaped


@dataclass(frozen=True, slots=True)
class Action:
    """An outside event and when it is due."""

    when: list[dict[str, Any]]
    after: float
    do: list[Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One tree, what happens to it, and what came of it in the recorded engine."""

    id: str
    root: Node
    input: Json
    options: dict[str, Any]
    limits: dict[str, int]
    actions: list[Action]
    has_loose_messages: bool
    expected: dict[str, Any]

    @property
    def has_too_many_children(self) -> bool:
        """True when a parent exceeds the number that the scenario allows."""
        most = self.limits.get("maxChildren")
        return most is not None and any(len(node.children) > most for _, node in self.paths())

    def paths(self) -> Iterator[tuple[str, Node]]:
        """Every path that may come to exist, a finalize function's and iterations' left out."""

        def walk(path: str, node: Node) -> Iterator[tuple[str, Node]]:
            yield path or "/", node
            for part, below in node.below():
                if below.kind != "function":
                    yield from walk(f"{path}/{part}", below)

        return walk("", self.root)


def load(path: Path) -> list[Scenario]:
    """The scenarios of a file of format version 1."""
    data = json.loads(path.read_text("utf-8"))
    if data["formatVersion"] != 1:
        raise ValueError(f"{path} has format version {data['formatVersion']}, not 1")
    return [_scenario(given) for given in data["scenarios"]]


def _scenario(given: dict[str, Any]) -> Scenario:
    return Scenario(
        id=given["id"],
        root=_node(given["root"], {}),
        input=given.get("input"),
        options=given.get("enqueueOptions", {}),
        limits=given.get("limits", {}),
        actions=[
            Action(action["when"], action.get("afterMs", 0) / 1000, action["do"])
            for action in given.get("actions", [])
        ],
        has_loose_messages=given.get("looseMessages", False),
        expected=given["expected"],
    )


def _node(given: dict[str, Any], known: dict[str, Node]) -> Node:
    if "ref" in given:
        return known[given["ref"]]
    node = Node(given["name"], given["kind"])
    known[node.name] = node
    node.timeout_ms = given.get("timeoutMs", node.timeout_ms)
    node.sleep_ms = given.get("sleepMsBeforeRun", node.sleep_ms)
    node.retry = given.get("retry")
    node.validate = given.get("validateInput")
    node.script = given.get("script", [])
    node.children = [
        Child(
            _node(child["node"], known),
            child.get("input"),
            child.get("passInput", False),
            child.get("options", {}),
        )
        for child in given.get("children", [])
    ]
    node.steps = [_node(step, known) for step in given.get("steps", [])]
    node.unique_id = given.get("uniqueId")
    node.max_iterations = given.get("maxAttempts", 0)
    if (iteration := given.get("iteration")) is not None:
        node.iteration_name = iteration["name"]
        node.iteration_scripts = iteration["scripts"]
        node.timeout_ms = iteration.get("timeoutMs", 10_000)
        node.retry = iteration.get("retry")
    if (finalize := given.get("finalize")) is not None:
        if finalize.get("kind") == "function":
            node.finalize = Node(
                f"{node.name}.function", "function", script=[finalize["behaviour"]]
            )
        else:
            node.finalize = _node(finalize, known)
    return node
