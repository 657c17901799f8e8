"""The demo as a person runs it: real workers, a real kill, a server of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fix_cli import Run, running, until
from perdure import _schema, demo
from perdure._server import find_running
from perdure.records import FINISHED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FOLDER = Path(".perdure")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A demo in this process takes TERM as an interrupt."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def _await_progress(perdure: Run) -> None:
    """Until the job in the folder's server is under way, as another command sees it."""

    def is_under_way() -> bool:
        if find_running(FOLDER) is None:
            return False
        listed = perdure("list", "--status", "completed", "--limit", "10", "--json")
        if listed.code:  # no schema yet
            return False
        roots = perdure("list", "--roots", "--limit", "1", "--json").document["executions"]
        if not roots or roots[0]["status"] != "waiting_for_children":
            return False
        done = [e for e in listed.document["executions"] if e["root_id"] == roots[0]["id"]]
        return len(done) == 10

    until(is_under_way, 60)


def _family(process: subprocess.Popen[str]) -> list[int]:
    """The processes that this one started and that still live."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if _fields(pid)[1:2] == [str(process.pid)] and _lives(pid)]


def _lives(pid: int) -> bool:
    return _fields(pid)[:1] not in ([], ["Z"])


def _fields(pid: int) -> list[str]:
    """State, parent and so on of a process; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def test_it_survives_a_kill_an_interrupt_and_its_own_death(perdure: Run) -> None:
    with running("demo") as interrupted:
        _await_progress(perdure)
        interrupted.terminate()  # as Ctrl-C, which a shell in the background ignores
        _, said = interrupted.communicate(timeout=60)
    assert (interrupted.returncode, said.lstrip()) == (130, "perdure: interrupted\n")
    assert find_running(FOLDER) is None

    with running("demo") as killed:
        _await_progress(perdure)
        family = _family(killed)
        assert len(family) == 3  # two workers, and who looks after the server
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda: find_running(FOLDER) is None)
        until(lambda: not any(map(_lives, family)), 30)

    with running("demo", "--json") as whole:
        _await_progress(perdure)
        out, err = whole.communicate(timeout=120)
    assert (whole.returncode, err) == (0, "")
    story = json.loads(out)
    assert story["ok"] is True
    assert story["problems"] == []
    assert story["executions"] == story["files"] + 2
    assert story["violations"] == 0
    assert story["killed"] == story["workers"][0]
    assert story["files"] // 2 <= story["killed_at"] < story["files"]
    assert story["held"]
    assert set(story["held"]) <= set(story["recovered"])
    content = Path(story["index"]["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == story["index"]["sha256"]
    assert content.count(b"\n") == story["index"]["words"]
    assert find_running(FOLDER) is None
    assert perdure("list").code == 2


def test_it_runs_in_a_named_database_and_leaves_others_alone(
    perdure: Run, bare_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", bare_db)
    monkeypatch.setenv("PERDURE_WORKER_QUEUES", "nowhere")  # is not for the demo's workers
    with psycopg.connect(bare_db, autocommit=True) as conn:
        conn.execute(_schema.install_sql().encode())
        conn.execute("select perdure.enqueue('other')")
        conn.execute("select perdure.enqueue('other', queue => 'perdure_demo')")
        conn.execute("select perdure.enqueue('perdure_demo.index_library', '{}', 'perdure_demo')")
    answer = perdure("demo")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines if line] == [
        *("Database", "Input", "Job", "Workers", "Killed"),
        *("Recovered", "Finished", "Index", "Compared", "Verdict"),
    ]
    assert lines[-1].endswith("fsck found nothing amiss; everything matched")
    assert re.search(r"Recovered +[1-9]\d* executions", answer.out)
    assert find_running(FOLDER) is None

    with psycopg.connect(bare_db, autocommit=True) as conn:
        rows = conn.execute(
            "select x.task, x.status from perdure.executions as x"
            " where x.parent_id is null order by x.id"
        ).fetchall()
        assert rows == [
            ("other", "ready"),
            ("other", "ready"),
            ("perdure_demo.index_library", "cancelled"),  # left by an earlier demo
            ("perdure_demo.index_library", "completed"),
        ]
        assert conn.execute("select * from perdure.fsck()").fetchall() == []


def test_it_installs_the_schema_and_says_what_did_not_match(
    perdure: Run, bare_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = demo.library_folder() / "encodings"
    monkeypatch.setattr(demo, "library_folder", lambda: small)
    monkeypatch.setattr(demo, "index_without_engine", lambda library: b"another index")
    answer = perdure("demo", "--database-url", bare_db)
    assert answer.code == 1
    assert "NOT everything matched" in answer.out
    last = answer.out.splitlines()[-1].strip()
    assert last == "the merged index differs from the one computed without the engine"


def test_one_demo_at_a_time(perdure: Run, db: str) -> None:
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute("select pg_advisory_lock(hashtextextended('perdure demo', 0))")
        answer = perdure("demo", "--database-url", db)
    assert answer.code == 2
    assert answer.err.startswith("perdure: another demo runs in this database")


def test_a_job_that_fails_is_told(
    perdure: Run, db: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The input vanishes: the parent finds no file, so nobody could be killed."""
    monkeypatch.setattr(demo, "library_folder", lambda: tmp_path / "nowhere")
    answer = perdure("demo", "--json", "--database-url", db)
    assert answer.code == 1
    assert answer.document["ok"] is False
    assert answer.document["status"] in FINISHED
    assert "no worker was killed" in answer.document["problems"][0]


def test_the_index_is_of_words_in_files(tmp_path: Path) -> None:
    tmp_path /= "library"
    tmp_path.mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "a.py").write_text("Self self\nx = 'self_made'\n")
    (tmp_path / "b.py").write_bytes(b"made \xff \x00 made")
    (tmp_path / "test" / "c.py").write_text("unseen")
    assert [path.name for path in demo.source_files(tmp_path)] == ["a.py", "b.py"]
    assert demo.words_of(tmp_path / "a.py") == Counter(self=3, made=1)
    assert demo.index_without_engine(tmp_path) == b"made\t3\t2\nself\t3\t1\n"
    library = demo.source_files(demo.library_folder())
    assert 100 < len(library) <= 1500
    biggest = max(library, key=lambda path: path.stat().st_size)
    assert len(json.dumps(demo.words_of(biggest))) < 1 << 20
