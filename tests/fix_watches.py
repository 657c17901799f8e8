"""What tests of watched tables ask: which changes were enqueued."""

from __future__ import annotations

from typing import Any

from fix_engine import Engine

LONG = "queue_of_" + "x" * 81  # 90 characters; the server keeps 63


def changes(engine: Engine, task: str = "handle") -> list[Any]:
    """Inputs of the task's executions, in their order."""
    rows = engine.query("select input from perdure.execution where task = %s order by id", task)
    return [row["input"] for row in rows]


def told(engine: Engine, task: str = "handle") -> list[tuple[str, Any, Any]]:
    """Operation, old and new id of each change."""
    return [
        (change["op"], (change["old"] or {}).get("id"), (change["new"] or {}).get("id"))
        for change in changes(engine, task)
    ]
