"""The pages that map behaviour name tests and functions that exist, and leave no number out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Page:
    def __init__(self, name: str) -> None:
        self.text = (ROOT / "docs" / name).read_text()
        self.sections = re.split(r"^## ", self.text, flags=re.MULTILINE)

    def named_tests(self) -> list[tuple[str, str]]:
        """File and name of each; a section may name one file for all of its tests."""
        found = []
        for section in self.sections:
            whole = re.search(r"All in `([\w/]+\.py)`", section)
            for name in re.findall(r"`((?:[\w/]+\.py::)?test_\w+\*?)`", section):
                file, _, test = name.rpartition("::")
                found.append((file or (whole[1] if whole else ""), test))
        return found

    def rows(self, prefix: str) -> dict[int, str]:
        pattern = rf"^\| {re.escape(prefix)}(\d+) \|(.*)$"
        return {int(n): row for n, row in re.findall(pattern, self.text, re.MULTILINE)}


MAPPING = Page("mapping.md")
LOCKS = Page("mapping-locks.md")


def names_in(file: Path) -> list[str]:
    return re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("page", "least"), [(MAPPING, 60), (LOCKS, 120)])
def test_every_test_that_is_named_exists(page: Page, least: int) -> None:
    named = page.named_tests()
    assert len(named) > least
    for file, name in named:
        there = names_in(ROOT / "tests" / file) if file else []
        if name.endswith("*"):
            assert any(test.startswith(name[:-1]) for test in there), f"{file}::{name}"
        else:
            assert name in there, f"{file}::{name}"


@pytest.mark.parametrize("file", ["operations_b", "defects"])
def test_every_test_by_number_is_named(file: str) -> None:
    named = {name for _, name in MAPPING.named_tests()}
    assert set(names_in(ROOT / "tests" / "sql" / f"test_{file}.py")) <= named


@pytest.mark.parametrize(
    ("page", "prefix", "last"),
    [
        *((MAPPING, "S", 17), (MAPPING, "A", 10), (MAPPING, "B", 15), (MAPPING, "8.", 18)),
        *((LOCKS, "G", 21), (LOCKS, "A4.", 19), (LOCKS, "B9.", 16), (LOCKS, "C6.", 11)),
    ],
)
def test_every_number_is_answered(page: Page, prefix: str, last: int) -> None:
    rows = page.rows(prefix)
    assert list(rows) == list(range(1, last + 1))
    assert len(re.findall(rf"^\| {re.escape(prefix)}\d", page.text, re.MULTILINE)) == last


def test_every_row_about_locks_has_a_test_or_is_not_ours() -> None:
    for prefix in ("G", "A4.", "B9.", "C6."):
        for number, row in LOCKS.rows(prefix).items():
            assert ".py::test_" in row or "not ours: " in row, f"{prefix}{number}"


def test_every_test_of_an_acceptance_row_stands_there() -> None:
    """`test_g9_…` in the row G9, `test_a4_…` among the tests of PgIpLock."""
    rows = LOCKS.rows("G")
    found = 0
    for file in (ROOT / "tests").rglob("test_*.py"):
        for test in names_in(file):
            if numbered := re.match(r"test_g(\d+)_", test):
                name = f"{file.relative_to(ROOT / 'tests')}::{test}"
                all_of_file = f"{name.partition('::')[0]}::{numbered[0]}*"
                row = rows[int(numbered[1])]
                assert f"`{name}`" in row or f"`{all_of_file}`" in row, name
                found += 1
            elif test.startswith("test_a4_"):
                assert any(test in row for row in LOCKS.rows("A4.").values()), test
    assert found > 50


def test_every_function_that_is_named_exists() -> None:
    column = [row.split("|")[3] for row in MAPPING.sections[1].splitlines() if row[:3] == "| S"]
    words = {word for cell in column for word in re.findall(r"`([a-z_]{4,})[`(]", cell)}
    objects = "".join(path.read_text() for path in (ROOT / "sql").rglob("*.sql"))
    known = {"held", "gone", "spawned"}  # an argument, a part of an answer, an outcome
    missing = {w for w in words - known if not re.search(rf"\bperdure\.{w}\b", objects)}
    assert not missing


def test_every_name_beside_theirs_exists() -> None:
    """Functions, arguments, settings and methods in the tables of operations, of both columns."""
    written = "".join(
        path.read_text()
        for folder, kind in (("sql", "*.sql"), ("python_client/perdure", "*.py"))
        for path in (ROOT / folder).rglob(kind)
    )
    tables = [section for section in LOCKS.sections if "what differs, on purpose" in section]
    assert len(tables) == 3
    cells = [row.split("|", 2)[2] for table in tables for row in table.splitlines() if "|" in row]
    words = {word for cell in cells for word in re.findall(r"`(?:\w+\.)?([a-zA-Z_]{3,})[`(]", cell)}
    assert len(words) > 40
    assert not {word for word in words if not re.search(rf"\b{word}\b", written)}
