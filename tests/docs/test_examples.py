"""Each program in examples/ does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fix_cli import until, workers_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PRINTS = {
    "first_task_async.py": "Hello, Ada!\n",
    "first_task_sync.py": "Hello, Ada!\n",
    "pipeline.py": "Ada pays 11.50, thank you\n",
    "approval.py": "waiting for an answer\npaid 99.50\n",
}


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.*")} == {*PRINTS, "first_task.sql"}


@pytest.mark.parametrize("name", PRINTS)
def test_a_program(name: str, db: str) -> None:
    names = os.environ | {"DATABASE_URL": db}
    command = [sys.executable, "-m", "perdure", "worker", f"{Path(name).stem}:app"]
    with subprocess.Popen(command, cwd=EXAMPLES, env=names) as worker:
        try:
            until(lambda: workers_of(db))
            done = subprocess.run(
                [sys.executable, name],
                cwd=EXAMPLES,
                env=names,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            worker.terminate()
            worker.wait(30)
    assert (done.stdout, done.stderr) == (PRINTS[name], "")


def test_the_one_in_sql(psql: str, db: str) -> None:
    done = subprocess.run(
        [psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", db, "-f", EXAMPLES / "first_task.sql"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["recorded", "0", 'completed|"Hello, Ada!"']
