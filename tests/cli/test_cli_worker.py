"""`perdure worker` as a process: its queues, its ends, its private server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest

from fix_cli import Run, running, until, workers_of
from perdure import App
from perdure._server import find_running


def test_a_worker_serves_the_queues_of_its_tasks(
    perdure: Run, database: str, shop: subprocess.Popen[str]
) -> None:
    with App(database).sync as client:
        assert client.enqueue("send_email", {"to": "ada"}).result(20) == "sent to ada"
        assert client.enqueue("campaign", {"names": []}).result(20) == {"sent": 0}


def test_a_worker_tells_what_it_serves(database: str) -> None:
    with running("worker", "shop", "--json", "--queues", "mail,x", "--name", "w") as process:
        assert process.stdout
        until(lambda: workers_of(database) == [("w", ["mail", "x"])])
        process.send_signal(signal.SIGTERM)
        said, logged = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(said) == {
        "app": "shop",
        "pid": process.pid,
        "queues": ["mail", "x"],
        "tasks": ["campaign", "send_email", "summarise"],
    }
    assert "worker w has stopped" in logged


def test_a_worker_stops_when_its_input_ends(database: str) -> None:
    with running("worker", "shop", "--stop-on-eof") as process:
        until(lambda: workers_of(database))
        _, logged = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "has stopped" in logged


def test_an_embedded_worker_brings_a_server_that_others_find(perdure: Run, place: Path) -> None:
    folder = Path("data")
    with running("worker", "shop", "--embedded", "--folder", "data") as process:
        until(lambda: find_running(folder))
        until(lambda: perdure("list", "--folder", "data").code == 0)
        made = perdure("enqueue", "campaign", '{"names": ["ada"]}', "--folder", "data", "--json")
        ended = perdure("tree", made.document["id"], "--watch", "--folder", "data", "--json")
        assert ended.document["progress"] == {"completed": 3}
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=20)
    assert f"server in {place / 'data'}, which keeps the data" in logged
    assert find_running(folder) is None
    assert perdure("list", "--folder", "data").code == 2

    with running("worker", "shop", "--embedded", PERDURE_FOLDER="data") as process:
        until(lambda: perdure("list", "--folder", "data").code == 0)
        assert len(perdure("list", "--folder", "data", "--json").document["executions"]) == 3
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: find_running(folder) is None)


def test_embedded_wins_over_the_environment(database: str, place: Path) -> None:
    with running("worker", "shop", "--embedded", "--json") as process:
        until(lambda: (dsn := find_running(Path(".perdure"))) and _has_workers(dsn))
        assert workers_of(database) == []
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def _has_workers(dsn: str) -> bool:
    try:
        return bool(workers_of(dsn))
    except psycopg.Error:
        return False


@pytest.mark.usefixtures("database")
def test_a_database_in_the_code_is_kept_unless_another_is_named(
    perdure: Run, bare_db: str, place: Path
) -> None:
    text = (place / "shop.py").read_text()
    (place / "shop.py").write_text(text.replace("App()", f"App({bare_db!r})"))
    assert "no schema" in perdure("tasks", "sync", "shop").err
