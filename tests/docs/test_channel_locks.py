"""Every program in docs/channel-locks.md, taken from there and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "channel-locks.md"
TEXT = PAGE.read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS, ids=["sync", "async"])
def test_a_program_prints_what_its_comments_say(program: str, db: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": db},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == re.findall(r"\)  # (.*)", program)


def test_the_links_lead_somewhere() -> None:
    for page in (PAGE, PAGE.parent / "reference" / "events.md"):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        assert links
        assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_event_that_the_schema_tells_is_in_the_table() -> None:
    root = PAGE.parents[1]
    sources = "".join(path.read_text() for path in (root / "sql").glob("*/*.sql"))
    told = set(re.findall(r"_tell_channels\('(\w+)'|[\"']event[\"'](?:: |, )[\"'](\w+)", sources))
    names = {name for pair in told for name in pair if name}
    table = re.findall(
        r"^\| `(\w+)` \|", (PAGE.parent / "reference" / "events.md").read_text(), re.M
    )
    assert {*names, "event"} == {*table}  # the heading among them
