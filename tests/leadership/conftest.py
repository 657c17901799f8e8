"""Tests of leadership: elections, locks, what ends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fix_locks import start_async_lock as start_async_lock
from fix_locks import start_lock as start_lock
from fix_machines import network as network
from fix_machines import network_db as network_db
from fix_machines import pooler as pooler
from fix_machines import private_db as private_db
from fix_machines import private_server as private_server
from fix_machines import start_proxy as start_proxy
from perdure import ChannelLock


@pytest.fixture(autouse=True)
def _no_lock_is_left() -> Iterator[None]:
    yield
    ChannelLock.close_all()
    assert not ChannelLock.has_instances()
