"""Tests of the client without a worker."""

from __future__ import annotations

from fix_app import app as app
