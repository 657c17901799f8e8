"""Tests of leadership: elections, locks, what ends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fix_locks import start_async_lock as start_async_lock
from fix_locks import start_lock as start_lock
from perdure import ChannelLock


@pytest.fixture(autouse=True)
def _no_lock_is_left() -> Iterator[None]:
    yield
    ChannelLock.close_all()
    assert not ChannelLock.has_instances()
