from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fix_server import Server

ROOT = Path(__file__).resolve().parents[2]

Catalogue = dict[tuple[str, str], str]


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture
def catalogue() -> Callable[[str], Catalogue]:
    """Describes everything in a database's schema perdure."""
    query = (Path(__file__).parent / "fingerprint.sql").read_bytes()

    def describe(dsn: str) -> Catalogue:
        with psycopg.connect(dsn) as conn:
            return {(kind, name): text for kind, name, text in conn.execute(query)}

    return describe


@pytest.fixture
def make() -> Callable[..., str]:
    """Runs `make -s`, as a user would, and returns what it printed."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def run(*goals: str) -> str:
        done = subprocess.run(["make", "-s", *goals], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def programs(server: Server) -> Path:
    """Where the server's own programs are; skips where the server is not on this machine."""
    if server.local is None:
        pytest.skip("the server is not a local one")
    row = server.admin.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
    assert row
    return Path(row[0])
