"""Wrong input gets one line on stderr and exit code 2; a failure of the engine, 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from fix_cli import Run
from perdure import cli, errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["enqueue", "a", "{"], "'{' is not JSON"),
        (["enqueue", "a", "NaN"], "not JSON: NaN is not a JSON value"),
        (["enqueue", "a", '"\\u0000"'], "unsupported Unicode escape sequence"),
        (["enqueue", "a", "[" * 99999], "is not JSON"),
        (["enqueue", ""], "task name ''"),
        (["enqueue", "a" * 256], "task name"),
        (["enqueue", "a\nb"], "task name 'a\\nb'"),
        (["enqueue", "a", "--queue", ""], "a name has 1 to 255"),
        (["enqueue", "a", "--delay", "soon"], "'soon' is not a duration"),
        (["enqueue", "a", "--delay", "-5s"], "delay is out of range"),
        (["enqueue", "a", "--timeout", "99999d"], "timeout"),
        (["enqueue", "a", "--run-at", "noon"], "'noon' is not a time"),
        (["enqueue", "a", "--deadline", "2001-01-01"], "deadline"),
        (["enqueue", "a", "--max-attempts", "0"], "max_attempts"),
        (["enqueue", "a", "--max-attempts", "x"], "not a valid integer"),
        (["enqueue", "a", "--priority", "99999"], "priority"),
        (["enqueue", "a", "--retry-jitter", "2"], "retry_jitter"),
        (["enqueue", "a", "--headers", "[1]"], "[1]' is not a JSON object"),
        (["enqueue", "a", "--nope"], "--nope"),
        (["enqueue"], "Missing argument 'NAME'"),
        (["get", "12"], "there is no execution 12"),
        (["get", "x"], "'x' is not a valid integer"),
        (["get", "99999999999999999999"], "out of range"),
        (["tree", "12"], "there is no execution 12"),
        (["tree", "12", "--watch"], "there is no execution 12"),
        (["cancel", "12"], "no execution 12"),
        (["retry", "12"], "12"),
        (["wake", "approval", "k"], "no execution of approval ever had the key k"),
        (["wake", "approval", "k", "1", "--error", "no"], "exclude each other"),
        (["list", "--status", "done"], "'done' is not one of"),
        (["list", "--limit", "0"], "0 is not in the range"),
        (["worker", "shop"], "only sleeping"),
        (["worker", "shop:nope"], "module 'shop' has no 'nope'"),
        (["worker", "shop:other"], "shop:other is a object, not a perdure.App"),
        (["worker", "nowhere:app"], "there is no module 'nowhere' here"),
        (["worker", "broken:app"], "cannot import broken: RuntimeError: half- way"),
        (["worker", "./shop.py"], "not of the form module:app"),
        (["worker", "shop:app", "--queues", "a,,b"], "empty name"),
        (["worker", "shop:app", "--concurrency", "0"], "0 is not in the range"),
        (["worker", "shop:app", "--drain-timeout", "-1"], "negative"),
        (["worker", "shop:app", "--embedded", "--database-url", "x"], "exclude each other"),
        (["tasks", "sync", "nowhere:app"], "there is no module 'nowhere' here"),
        (["nope"], "No such command 'nope'"),
    ],
)
@pytest.mark.usefixtures("database")
def test_wrong_input(perdure: Run, words: list[str], said: str) -> None:
    if said == "only sleeping":
        Path("shop.py").write_text(
            "from perdure import App\napp = App()\n"
            "@app.sleeping()\ndef nap(key: str) -> None: ...\n"
        )
        said = "no tasks that a worker could run"
    answer = perdure(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("perdure: ")
    assert answer.err.count("\n") == 1
    assert said in answer.err


def test_a_key_with_another_input(perdure: Run, database: str) -> None:
    perdure("enqueue", "a", "1", "--key", "k")
    answer = perdure("enqueue", "a", "2", "--key", "k")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "key" in answer.err


def test_a_retry_of_what_lives_or_has_an_ended_parent(perdure: Run, database: str) -> None:
    made = perdure("enqueue", "a", "--json").document["id"]
    answer = perdure("retry", made)
    assert (answer.code, answer.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "words",
    [["list"], ["migrate"], ["enqueue", "a"], ["fsck"], ["worker", "shop:app"], ["get", "1"]],
)
def test_no_database(perdure: Run, words: list[str]) -> None:
    answer = perdure(*words)
    assert answer.code == 2
    assert answer.err == (
        "perdure: no database: give --database-url, set DATABASE_URL or PG*, or start a server"
        " in .perdure with `perdure worker --embedded`\n"
    )


@pytest.mark.parametrize("words", [["list"], ["migrate"], ["worker", "shop:app"], ["demo"]])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://127.0.0.1:1/x", "Connection refused"),
        ("no url", 'missing "="'),
    ],
)
def test_no_connection(perdure: Run, words: list[str], url: str, said: str) -> None:
    answer = perdure(*words, "--database-url", url)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert said in answer.err


@pytest.mark.parametrize(
    "words",
    [["list"], ["enqueue", "a"], ["tree", "1"], ["worker", "shop:app"], ["tasks", "sync", "shop"]],
)
def test_a_database_without_the_schema(perdure: Run, bare_db: str, words: list[str]) -> None:
    answer = perdure(*words, "--database-url", bare_db)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == ("perdure: the database has no schema perdure: run `perdure migrate`\n")


def test_a_failure_of_the_engine_exits_1(
    perdure: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("alter table perdure.execution rename to execution_lost")
    answer = perdure("enqueue", "a")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("alter table perdure.execution_lost rename to execution")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("perdure: relation")

    def still_closing(*args: object, **options: object) -> int:
        raise errors.StillClosing("try again")

    monkeypatch.setattr(cli.perdure, "main", still_closing)
    assert perdure("retry", "1").code == 1


def test_a_reader_that_has_seen_enough_is_no_error(database: str) -> None:
    command = f"{sys.executable} -m perdure sql | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_an_interrupt_is_one_line_too(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.perdure, "main", interrupted)
    answer = perdure("list")
    assert (answer.code, answer.err) == (130, "perdure: interrupted\n")
