"""Every program in README.md, taken from there and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fix_cli import until, workers_of
from perdure import _schema

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = README.read_text()


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(title), re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    """The text under a heading, up to the next one; code may have lines that look like one."""
    _, _, rest = TEXT.partition(f"# {title}\n")
    assert rest, f"README.md has no section {title!r}"
    inside, kept = False, []
    for line in rest.splitlines(keepends=True):
        inside ^= line.startswith("```")
        if line.startswith("#") and not inside:
            break
        kept.append(line)
    return "".join(kept)


def environment(**names: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and k[:2] != "PG"}
    programs = Path(sys.executable).parent
    return kept | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | names


def test_the_top_says_the_two_commands() -> None:
    (commands,) = blocks("Perdure", "sh")
    assert [line.split("  ")[0] for line in commands.splitlines()] == ["make demo", "make test"]
    assert len(TEXT.splitlines()) <= 200


def test_a_first_task_with_psql_only(psql: str, bare_db: str, tmp_path: Path) -> None:
    (install,) = blocks("psql only", "sh")
    assert [line.split("  ")[0] for line in install.splitlines()] == [
        "make perdure.sql",
        "psql -1 -f build/perdure.sql",
    ]
    (tmp_path / "perdure.sql").write_text(_schema.install_sql())
    (task,) = blocks("psql only", "sql")
    (tmp_path / "task.sql").write_text(task)
    command = [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", bare_db, "-At"]
    subprocess.run(
        [*command, "-1", "-f", "perdure.sql"], cwd=tmp_path, check=True, capture_output=True
    )
    done = subprocess.run(
        [*command, "-f", "task.sql"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout == 'recorded\ncompleted|"Hello, Ada!"\n'


@pytest.mark.parametrize("way", ["Python, async", "Python, sync"])
def test_a_first_task_in_python(way: str, tmp_path: Path) -> None:
    (program,) = blocks(way, "python")
    (tmp_path / "greet.py").write_text(program)
    (commands,) = blocks("Python, async", "sh")
    worker, client = (line.split("  ")[0].split() for line in commands.splitlines())
    assert client == ["python", "greet.py"]
    with subprocess.Popen(worker, cwd=tmp_path, env=environment()) as process:
        try:
            until((tmp_path / ".perdure" / "server.json").exists, 60)
            until(lambda: _greet(client, tmp_path), 60)
        finally:
            process.terminate()
            process.wait(30)


def _greet(client: list[str], folder: Path) -> bool:
    """False while the server is not there yet."""
    done = subprocess.run(
        client, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout in ("", "Hello, Ada!\n")
    assert done.returncode == 0 or "no database" in done.stderr or "migrate" in done.stderr, (
        done.stderr
    )
    return done.returncode == 0


def test_the_tour(db: str, tmp_path: Path) -> None:
    program = "\n\n".join(blocks("A short tour", "python"))
    (tmp_path / "tour.py").write_text(program)
    names = environment(DATABASE_URL=db)
    with subprocess.Popen(["perdure", "worker", "tour:app"], cwd=tmp_path, env=names) as process:
        try:
            until(lambda: workers_of(db))
            done = subprocess.run(
                ["python", "tour.py"],
                cwd=tmp_path,
                env=names,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            process.terminate()
            process.wait(30)
    assert done.stderr == ""
    assert done.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", program)


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
