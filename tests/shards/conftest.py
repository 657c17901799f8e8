"""Tests of sharded queues, each in a database of its own."""

from __future__ import annotations

from fix_shards import engine as engine
from fix_shards import sessions as sessions
from fix_shards import shards as shards
