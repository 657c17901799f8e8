"""The programs in docs/watching-tables.md, taken from there and run; and what its table says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

from fix_cli import running, until
from fix_engine import Engine
from fix_server import Connect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "watching-tables.md"
TEXT = PAGE.read_text()

# With a condition: see the page's last line.
UNPROFILED = os.environ | {"PGOPTIONS": "-c plpgsql_check.profiler=off"}


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return str(text)


def test_a_change_becomes_an_execution_and_its_input_looks_so(psql: str, db: str) -> None:
    command = [psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", db]
    done = subprocess.run(command, input=block("sql"), capture_output=True, text=True, check=True)
    watch, *lines = done.stdout.splitlines()
    assert watch == "1"
    inputs = [json.loads(line.removeprefix("handle_order|")) for line in lines]
    assert [change["op"] for change in inputs] == ["insert", "insert", "update"]
    assert inputs[2] == json.loads(block("json"))


def test_a_worker_of_the_app_watches(db: str, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "receipts.py").write_text(block("python"))
    engine = Engine(connect(options="-c plpgsql_check.profiler=off"))
    engine.run(block("sql").split(";")[0])
    names = {"DATABASE_URL": db, "PYTHONPATH": os.pathsep.join([str(tmp_path), *_path()])}
    with running("worker", "receipts:app", **names):
        until(lambda: engine.rows("check_watches"))
        engine.run("insert into orders values (1, 'new', 9.50), (2, 'new', 20)")
        engine.run("update orders set total = total + 1")
        engine.run("update orders set status = 'paid' where id = 2")
        until(lambda: engine.query("select 1 from perdure.finished"))
    outputs = [row["output"] for row in engine.query("select output from perdure.finished")]
    assert outputs == ["receipt for order 2: 21"]


def _path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def test_every_problem_is_explained() -> None:
    sql = (PAGE.parents[1] / "sql" / "57_watches" / "check_watches.sql").read_text()
    body = sql.split("as $$")[1].split("$$;")[0]
    found = set(re.findall(r"then '([a-z ]+)'", body)) | set(re.findall(r"4, '(\w+)'", body))
    explained = re.findall(r"^\| (`[^|]+`) \|", TEXT.split("## Is it watched?")[1], re.MULTILINE)
    assert {name for cell in explained for name in re.findall(r"`([^`]+)`", cell)} == found
