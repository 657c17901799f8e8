"""Where another engine may differ from the recorded one and still be right, by FORMAT's numbers."""

from __future__ import annotations

from enum import IntEnum


class Freedom(IntEnum):
    """The allowed differences that are used; REASONS says what Perdure does instead."""

    SLEEPING = 1
    OWN_OUTPUT = 2
    TEXTS = 3
    EMPTY_WAIT = 4
    AT_ONCE = 5
    LOOP = 6
    FINALIZE_ERROR = 7
    RETRY_FLAG = 8
    LIMITS = 9
    UNKNOWN_CHILD = 10
    FINALIZE_RUN = 13


REASONS = {
    Freedom.SLEEPING: "a sleeping task has a status of its own",
    Freedom.OWN_OUTPUT: "a parent without finalize completes with its own output alone",
    Freedom.TEXTS: "the engine's own error texts say the same in other words",
    Freedom.EMPTY_WAIT: "a parent without children waits for its finalize only",
    Freedom.AT_ONCE: "descendants are cancelled together with their ancestor, and name it",
    Freedom.LOOP: "a loop is one execution; it ends as its last iteration did",
    Freedom.FINALIZE_ERROR: "a finalize function's error keeps its type and retry flag",
    Freedom.RETRY_FLAG: "a sleep that timed out is not marked as retryable",
    Freedom.LIMITS: "there is no limit on the number of children, by design",
    Freedom.UNKNOWN_CHILD: "the client refuses an unknown child before it asks the database",
    Freedom.FINALIZE_RUN: "a finalize function is an execution of its own",
}
