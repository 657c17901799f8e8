"""Every command that reaches executions, for people and with --json."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import timedelta

import psycopg
import pytest

from fix_cli import Run, running, until
from fix_server import Connect
from perdure import App

pytestmark = pytest.mark.usefixtures("database")


def test_enqueue_says_the_id(perdure: Run, db: str) -> None:
    answer = perdure("enqueue", "send_email", '{"to": "ada"}')
    with App(db).sync as client:
        execution = client.executions()[0]
    assert answer.out == f"execution {execution.id} of send_email is ready\n"
    assert (execution.task, execution.input) == ("send_email", {"to": "ada"})

    assert perdure("enqueue", "send_email", "--json", "--queue", "mail").document == {
        "id": execution.id + 1,
        "is_new": True,
        "status": "ready",
        "task": "send_email",
        "queue": "mail",
    }


def test_enqueue_takes_every_option_of_the_sql_function(perdure: Run, connect: Connect) -> None:
    options = {
        "queue": "mail",
        "priority": -3,
        "run-at": "2030-01-31T18:00:00Z",
        "max-attempts": 7,
        "timeout": "90s",
        "deadline": "2031-01-31T18:00:00Z",
        "key": "k",
        "key-for": "1h",
        "key-scope": "s",
        "retry-delay": "500ms",
        "retry-multiplier": 3,
        "retry-max-delay": "2m",
        "retry-jitter": 0.5,
        "retry-backoff": "linear",
        "max-crashes": 9,
        "headers": '{"trace": "t"}',
        "tags": "a,b",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    made = perdure("enqueue", "report", "[1]", "--json", *flags).document

    row = connect().execute("select to_jsonb(e) from perdure.execution as e").fetchone()
    assert row
    stored = row[0]
    expected = {
        "id": made["id"],
        "input": [1],
        "queue": "mail",
        "priority": -3,
        "max_attempts": 7,
        "timeout_ms": 90_000,
        "key": "k",
        "key_scope": "s",
        "retry_delay_ms": 500,
        "retry_multiplier": 3,
        "retry_max_delay_ms": 120_000,
        "retry_jitter": 0.5,
        "is_linear": True,
        "max_crashes": 9,
        "headers": {"trace": "t"},
        "tags": ["a", "b"],
    }
    assert {name: stored[name] for name in expected} == expected

    shown = perdure("get", made["id"], "--json").document
    assert shown["start_at"] == "2030-01-31T18:00:00Z"
    assert shown["deadline_at"] == "2031-01-31T18:00:00Z"


def test_a_key_is_idempotent(perdure: Run) -> None:
    first = perdure("enqueue", "report", "{}", "--key", "k", "--json").document
    again = perdure("enqueue", "report", "{}", "--key", "k", "--json").document
    assert again == first | {"is_new": False}
    assert "has this key; it is ready" in perdure("enqueue", "report", "--key", "k").out


def test_an_input_can_come_from_stdin(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": 12345678901234567890123}'))
    made = perdure("enqueue", "report", "-", "--json").document
    assert perdure("get", made["id"], "--json").document["input"]["a"] > 1e22


def test_get_shows_everything(perdure: Run, shop: subprocess.Popen[str]) -> None:
    made = perdure("enqueue", "send_email", '{"to": "nobody"}', "--key", "k", "--json").document
    perdure("tree", made["id"], "--watch")

    shown = perdure("get", made["id"])
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == f"execution {made['id']} of send_email is failed"
    assert "queue     mail, priority 0" in lines
    assert "attempts  2 of 2" in lines
    assert "key       k" in lines
    assert 'input     {"to":"nobody"}' in lines
    assert "error     ValueError: no such" in lines
    assert "Traceback (most recent call last):" in lines
    assert any(line.startswith("ATTEMPT  STATUS") for line in lines)

    document = perdure("get", made["id"], "--json").document
    assert document["status"] == "failed"
    assert document["error"]["type"] == "ValueError"
    assert document["timeout"] == timedelta(minutes=5).total_seconds()
    (attempt,) = document["attempts"]
    assert (attempt["attempt"], attempt["status"]) == (1, "failed")


def test_list_filters(perdure: Run) -> None:
    perdure("enqueue", "a")
    perdure("enqueue", "b", "--queue", "mail")
    perdure("enqueue", "b", "--delay", "2h")
    sleeper = perdure("enqueue", "c", "--sleeping", "--key", "k", "--json").document["id"]

    def listed(*flags: str) -> list[str]:
        document = perdure("list", "--json", *flags).document
        return [execution["task"] for execution in document["executions"]]

    assert listed() == ["c", "b", "b", "a"]
    assert listed("--task", "b") == ["b", "b"]
    assert listed("--queue", "mail") == ["b"]
    assert listed("--status", "sleeping") == ["c"]
    assert listed("--roots", "--limit", "1") == ["c"]
    assert listed("--before", str(sleeper), "--limit", "2") == ["b", "b"]
    assert listed("--parent", str(sleeper)) == []

    lines = perdure("list").out.splitlines()
    assert lines[0].split() == ["ID", "TASK", "STATUS", "QUEUE", "TRY", "TOOK", "CREATED"]
    assert "ready in 2 h" in lines[2] or "ready in 120 min" in lines[2]
    assert (
        perdure("list", "--limit", "2").out.splitlines()[-1]
        == f"older ones: --before {sleeper - 1}"
    )
    assert perdure("list", "--task", "nothing").out == "no such execution\n"


def test_a_tree_is_watched_until_it_ends(perdure: Run, shop: subprocess.Popen[str]) -> None:
    names = '{"names": ["ada", "bob", "nobody"]}'
    made = perdure("enqueue", "campaign", names, "--json").document["id"]
    with running("tree", str(made), "--watch") as process:
        watched, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert watched.startswith(f"execution {made} of campaign ended after ")
    assert watched.splitlines()[-1] == "4 completed, 1 failed"

    lines = perdure("tree", made).out.splitlines()
    assert lines[0].startswith(f"{made} campaign completed")
    assert [line.split()[2] for line in lines[1:5]] == [*["send_email"] * 3, "summarise"]
    assert "ValueError: no such" in lines[3]
    assert "(finalize)" in lines[4]

    document = perdure("tree", made, "--watch", "--json").document
    assert document["status"] == "completed"
    assert document["progress"] == {"completed": 4, "failed": 1}
    assert [node["depth"] for node in document["executions"]] == [0, 1, 1, 1, 1]

    cut = perdure("tree", made, "--limit", "2").out.splitlines()
    assert cut[2] == "… and 3 more (--limit)"


def test_cancel(perdure: Run) -> None:
    made = perdure("enqueue", "a", "--json").document["id"]
    assert perdure("cancel", made, "--reason", "wrong").out == f"execution {made} is cancelled\n"
    assert perdure("cancel", made).out == f"execution {made} had ended before: cancelled\n"
    assert perdure("cancel", made, "--json").document == {
        "id": made,
        "result": "finished",
        "status": "cancelled",
    }
    assert perdure("get", made, "--json").document["error"]["message"] == "wrong"


def test_wake(perdure: Run) -> None:
    def sleeper(key: str) -> int:
        made = perdure("enqueue", "approval", "--sleeping", "--key", key, "--json").document
        assert made["status"] == "sleeping"
        return int(made["id"])

    first, second = sleeper("7"), sleeper("8")
    assert perdure("wake", "approval", "7", '{"yes": 1}').out == f"execution {first} is completed\n"
    assert perdure("wake", "approval", "7", "2").out == (
        f"execution {first} had ended before: completed\n"
    )
    document = perdure("wake", "approval", "8", "--error", "denied", "--json").document
    assert document["id"] == second
    assert document["is_woken"] is True
    assert document["status"] == "failed"
    assert document["error"]["message"] == "denied"


def test_retry(perdure: Run) -> None:
    made = perdure("enqueue", "a", "--json").document["id"]
    perdure("cancel", made)
    assert perdure("retry", made).out == f"execution {made} is ready\n"
    perdure("cancel", made)
    assert perdure("retry", made, "--json").document == {"id": made, "status": "ready"}


def test_sweep(perdure: Run, connect: Connect) -> None:
    assert perdure("sweep").out == "nothing was due\n"
    perdure("enqueue", "a", "--delay", "50ms")
    perdure("enqueue", "b", "--delay", "50ms")
    conn = connect()
    late = "select from perdure.scheduled where start_at > now()"
    until(lambda: conn.execute(late).fetchone() is None)
    assert perdure("sweep", "--max", "1", "--all", "--json").document["promoted"] == 2
    document = perdure("sweep", "--json").document
    assert (document.pop("more"), document.pop("skipped")) == (False, None)
    assert set(document.values()) == {0}
    assert perdure("sweep", "--channel", "mail").out == "nothing was due\n"
    leader = "select 1 from perdure.elect('{mail}', gen_random_uuid(), purpose => 'sweep')"
    assert conn.execute(leader).fetchone()
    assert perdure("sweep", "--channel", "mail").out == "skipped: resident leader\n"


@pytest.mark.fsck(False)
def test_fsck_exits_1_when_it_finds_something(perdure: Run, db: str) -> None:
    assert perdure("fsck").out == "all is well: no invariant is broken\n"
    assert perdure("fsck", "--json").document == {"violations": []}

    made = perdure("enqueue", "a", "--json").document["id"]
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute("delete from perdure.ready")
    found = perdure("fsck")
    assert found.code == 1
    assert found.out.splitlines()[0].split() == ["BROKEN", "INVARIANT", "ID", "DETAIL"]
    assert f" {made} " in found.out
    document = perdure("fsck", "--json")
    assert document.code == 1
    assert [violation["id"] for violation in document.document["violations"]] == [made]


def test_tasks_sync_publishes_what_tasks_declare(perdure: Run, connect: Connect) -> None:
    lines = perdure("tasks", "sync", "shop:app").out.splitlines()
    assert lines[-1] == "4 of 4 changed"
    assert lines[3].split() == ["send_email", "mail", "max_attempts", "2,", "retry_delay", "0.01"]
    assert perdure("tasks", "sync", "shop", "--json").document == {
        "changed": 0,
        "tasks": ["approval", "campaign", "send_email", "summarise"],
    }
    row = connect().execute("select queue from perdure.task where name = 'send_email'").fetchone()
    assert row == ("mail",)


def test_each_flag_has_a_twin_in_the_environment(
    perdure: Run, db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("PERDURE_DATABASE_URL", db)
    monkeypatch.setenv("PERDURE_JSON", "1")
    monkeypatch.setenv("PERDURE_ENQUEUE_QUEUE", "mail")
    monkeypatch.setenv("PERDURE_ENQUEUE_DELAY", "2h")
    monkeypatch.setenv("PERDURE_LIST_LIMIT", "1")
    made = perdure("enqueue", "a").document
    perdure("enqueue", "b")
    (listed,) = perdure("list").document["executions"]
    assert (made["queue"], listed["id"]) == ("mail", made["id"] + 1)
    monkeypatch.setenv("PERDURE_LIST_LIMIT", "none")
    assert "--limit" in perdure("list").err


def test_help_is_for_everyone(perdure: Run) -> None:
    alone = perdure()
    assert alone.code == 0
    assert "Durable tasks inside PostgreSQL." in alone.out
    for command in ("demo", "migrate", "sql", "worker", "enqueue", "get", "tree", "list", "fsck"):
        shown = perdure(command, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert "--json" in shown.out
