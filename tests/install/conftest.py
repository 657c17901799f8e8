from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fix_server import Server
from perdure import _schema

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(__file__).parent / "release-0.1.0.sql.gz"

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
def release(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the texts that a test may change into those of a later release."""
    for folder in ("sql", "migrations"):
        shutil.copytree(root / folder, tmp_path / folder)
    monkeypatch.setattr(_schema, "_root", lambda: tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def release_text() -> bytes:
    """The schema of 0.1.0, as its `make perdure.sql` built it."""
    return gzip.decompress(RELEASE.read_bytes())


@pytest.fixture(scope="session")
def released(server: Server, release_text: bytes) -> Iterator[str]:
    """A database with the schema of 0.1.0: to be copied."""
    with server.database("template0") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(release_text)
        yield dsn


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
