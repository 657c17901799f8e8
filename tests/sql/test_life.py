"""The whole life of a task, children and finalize included, is driven from psql alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fix_server import Server

HERE = Path(__file__).parent


def psql(server: Server, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    programs = str(server.local._binaries) if server.local else ""
    program = shutil.which("psql", path=f"{programs}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("psql is not installed")
    return subprocess.run(
        [program, "-X", "-q", "-d", dsn, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_whole_life_is_driven_from_psql(server: Server, db: str) -> None:
    done = psql(server, db, "-f", str(HERE / "life.psql"))
    assert done.stderr == ""
    assert done.stdout == (HERE / "life.expected").read_text()
    assert done.returncode == 0


def test_a_person_at_psql_sees_the_code_and_the_reason(server: Server, db: str) -> None:
    done = psql(server, db, "-v", "VERBOSITY=verbose", "-c", "select perdure.enqueue('')")
    assert "ERROR:  QD020: cannot enqueue : a name has 1 to 255 characters" in done.stderr
    assert done.returncode == 1
