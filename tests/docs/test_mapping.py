"""docs/mapping.md names tests and functions that exist, and leaves no number out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mapping.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


def named_tests() -> list[tuple[str, str]]:
    """File and name of each; a section may name one file for all of its tests."""
    found = []
    for section in SECTIONS:
        whole = re.search(r"All in `([\w/]+\.py)`", section)
        for name in re.findall(r"`((?:[\w/]+\.py::)?test_\w+)`", section):
            file, _, test = name.rpartition("::")
            found.append((file or (whole[1] if whole else ""), test))
    return found


def test_every_test_that_is_named_exists() -> None:
    tests = named_tests()
    assert len(tests) > 60
    for file, name in tests:
        text = (ROOT / "tests" / file).read_text() if file else ""
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("file", ["operations_b", "defects"])
def test_every_test_by_number_is_named(file: str) -> None:
    text = (ROOT / "tests" / "sql" / f"test_{file}.py").read_text()
    named = {name for _, name in named_tests()}
    assert set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE)) <= named


@pytest.mark.parametrize(("prefix", "last"), [("S", 17), ("A", 10), ("B", 15), ("8.", 18)])
def test_every_number_is_answered(prefix: str, last: int) -> None:
    rows = re.findall(rf"^\| {re.escape(prefix)}(\d+) \|", PAGE, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, last + 1))


def test_every_function_that_is_named_exists() -> None:
    column = [row.split("|")[3] for row in SECTIONS[1].splitlines() if row.startswith("| S")]
    words = {word for cell in column for word in re.findall(r"`([a-z_]{4,})[`(]", cell)}
    objects = "".join(path.read_text() for path in (ROOT / "sql").rglob("*.sql"))
    known = {"held", "gone", "spawned"}  # an argument, a part of an answer, an outcome
    missing = {w for w in words - known if not re.search(rf"\bperdure\.{w}\b", objects)}
    assert not missing
