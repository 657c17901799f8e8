"""Tests of workers, in this process and in others."""

from __future__ import annotations

from fix_app import app as app
from fix_app import start_worker as start_worker
from fix_shards import engine as engine
from fix_shards import sessions as sessions
