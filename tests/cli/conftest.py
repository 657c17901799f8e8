"""Tests of the command line: each in an empty folder, where no database is named."""

from __future__ import annotations

import pytest

from fix_cli import database as database
from fix_cli import perdure as perdure
from fix_cli import place as place
from fix_cli import shop as shop


@pytest.fixture(autouse=True)
def _place(place: object) -> None:
    """Every test of the command line is in a place of its own."""
