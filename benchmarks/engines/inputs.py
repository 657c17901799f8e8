"""What the peers' programs enqueue: inputs like those of Perdure's own program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from protocol import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE = "hello world payload"
STEPS = 10
BULK = 1_000  # per call of an engine's bulk API, which is a transaction each

SETTINGS = {"bulk": f"{BULK} per call and transaction"}


def inputs(what: str, count: int) -> list[dict[str, Any]]:
    """One per job, made before the clock runs. What is left out here are trees and loops."""
    match what:
        case "noop":
            return [{"i": i, "msg": MESSAGE} for i in range(count)]
        case "chain":  # the body of step n enqueues step n + 1: nothing else makes it a chain
            return [{"step": 1} for _ in range(count)]
        case "tree":
            raise Unsupported("no trees")
        case "loop":
            raise Unsupported("no loops")
        case _:
            raise Unsupported(f"no {what}")


def chunks(given: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """What one call of a bulk API takes."""
    for start in range(0, len(given), BULK):
        yield given[start : start + BULK]
