"""The whole life of a task, children and finalize included, is driven from psql alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def run(psql: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [psql, "-X", "-q", "-d", dsn, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_whole_life_is_driven_from_psql(psql: str, db: str) -> None:
    done = run(psql, db, "-f", str(HERE / "life.psql"))
    assert done.stderr == ""
    assert done.stdout == (HERE / "life.expected").read_text()
    assert done.returncode == 0


def test_a_person_at_psql_sees_the_code_and_the_reason(psql: str, db: str) -> None:
    done = run(psql, db, "-v", "VERBOSITY=verbose", "-c", "select perdure.enqueue('')")
    assert "ERROR:  QD020: cannot enqueue : a name has 1 to 255 characters" in done.stderr
    assert done.returncode == 1
