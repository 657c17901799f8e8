"""What the client is made of when it blocks; `_aio` has the same names for when it awaits."""

from __future__ import annotations

import os
from threading import Lock as Lock
from time import sleep as sleep
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

if TYPE_CHECKING:
    from collections.abc import Hashable

Connection: TypeAlias = psycopg.Connection[Any]
ConnectionClass = psycopg.Connection


class _Process:
    def __init__(self) -> None:
        self.pid = os.getpid()


_process = _Process()


def scope() -> Hashable:
    """Who may share a connection: the threads of one process, but not its forks."""
    global _process
    if _process.pid != os.getpid():
        _process = _Process()
    return _process
