"""Tests of the demo: each in an empty folder, where no database is named."""

from __future__ import annotations

import pytest

from fix_cli import perdure as perdure
from fix_cli import place as place


@pytest.fixture(autouse=True)
def _place(place: object) -> None:
    """Every demo is in a place of its own."""
