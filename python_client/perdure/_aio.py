"""What the client is made of when it awaits; `_blocking` has the same names for when it blocks."""

from __future__ import annotations

import asyncio
from asyncio import Lock as Lock
from asyncio import sleep as sleep
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

if TYPE_CHECKING:
    from collections.abc import Hashable

Connection: TypeAlias = psycopg.AsyncConnection[Any]
ConnectionClass = psycopg.AsyncConnection


def scope() -> Hashable:
    """Who may share a connection: those in one event loop."""
    return asyncio.get_running_loop()
