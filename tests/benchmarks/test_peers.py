"""Peers of the benchmark are pinned, have a program, and say why they cannot be had."""

from __future__ import annotations

import ast
import re
import sys
from typing import TYPE_CHECKING

import pytest

import peers
from peers import PEERS, Absent, prepare

if TYPE_CHECKING:
    from pathlib import Path

EXACT = re.compile(r"[\w-]+(\[\w+\])?(==|@)\d+(\.\d+)+( ; python_version >= '[\d.]+')?")


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No peer, no program on PATH, no pyenv."""
    monkeypatch.setattr(peers, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)


def program_at(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", PEERS)
def test_pins_are_exact(name: str) -> None:
    assert PEERS[name].pins
    for pin in PEERS[name].pins:
        assert EXACT.fullmatch(pin), pin


@pytest.mark.parametrize("name", PEERS)
def test_each_has_a_program(name: str) -> None:
    program = PEERS[name].program
    assert program.is_file()
    if program.suffix == ".py":
        tree = ast.parse(program.read_text())
        bases = [ast.unparse(b) for n in tree.body if isinstance(n, ast.ClassDef) for b in n.bases]
        assert "Engine" in bases


def test_a_marker_and_the_table_ask_for_the_same_python() -> None:
    for peer in PEERS.values():
        for asked in re.findall(r"python_version >= '([\d.]+)'", " ".join(peer.pins)):
            assert peer.python == tuple(map(int, asked.split(".")))


def test_without_node_graphile_is_absent() -> None:
    assert prepare("graphile") == Absent("needs Node, which is not on PATH")


def test_an_old_node_is_not_enough(tmp_path: Path) -> None:
    program_at(tmp_path / "node", "echo v16.20.2")
    program_at(tmp_path / "npm", "exit 0")
    assert prepare("graphile") == Absent("needs Node 18 or newer, and there is 16.20.2")


def test_what_npm_says_is_the_reason(tmp_path: Path) -> None:
    program_at(tmp_path / "node", "echo v20.0.0")
    program_at(tmp_path / "npm", "echo first; echo npm error: it went wrong >&2; exit 1")
    assert prepare("graphile") == Absent("npm fails: npm error: it went wrong")


def test_without_its_python_a_peer_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert prepare("oban") == Absent("needs Python 3.12 or newer, and none is found")


def test_a_shim_that_fails_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    program_at(tmp_path / "python3.12", "echo 'command not found' >&2; exit 127")
    assert peers.find_python((3, 12)) is None

    kept = tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin" / "python"
    program_at(kept, "exit 0")
    assert peers.find_python((3, 12)) == str(kept)


def test_what_pip_says_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's Python is what was there before: one that fails like pip does."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    program_at(tmp_path / "python", "exit 0")
    failing = "echo WARNING: a word >&2; echo ERROR: No such version >&2; echo >&2; exit 1"
    program_at(peers.CACHE / "procrastinate" / "bin" / "python", failing)
    assert prepare("procrastinate") == Absent("python fails: ERROR: No such version")
    assert not (peers.CACHE / "procrastinate" / "pins").exists()


def test_what_is_installed_is_not_installed_again(tmp_path: Path) -> None:
    program_at(tmp_path / "node", "echo v20.0.0")
    program_at(tmp_path / "npm", f"echo x >> {tmp_path}/runs")
    command = prepare("graphile")
    assert command == [str(tmp_path / "node"), str(peers.CACHE / "graphile" / "engine.mjs")]
    assert prepare("graphile") == command
    assert (tmp_path / "runs").read_text() == "x\n"

    (peers.CACHE / "graphile" / "pins").write_text("graphile-worker@0.16.0\n")
    assert prepare("graphile") == command
    assert (tmp_path / "runs").read_text() == "x\nx\n"
