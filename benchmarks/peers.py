"""Where the peers of the benchmark live and how their programs are started.

Their exact versions stand in pyproject.toml (the extras `bench-…`) and in
engines/graphile/package.json, nowhere else. Each is installed once, into an environment of its own
under .cache/bench.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ENGINES = Path(__file__).parent / "engines"
ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "bench"
PATIENCE = 600.0  # seconds for one command of an installation

# The oldest Python that each says it runs on; Graphile Worker is a Node program.
PYTHONS: dict[str, tuple[int, int]] = {
    "procrastinate": (3, 10),
    "pgqueuer": (3, 10),
    "chancy": (3, 11),
    "oban": (3, 12),
    "dbos": (3, 10),
}
NODE = 18


@dataclass(frozen=True, slots=True)
class Absent:
    """The peer cannot be had here."""

    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    program: Path
    python: tuple[int, int] | None
    """The oldest one that will do; None: it is not a Python program."""
    pins: tuple[str, ...]


def _peers() -> dict[str, Peer]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    peers = {
        name: Peer(name, ENGINES / f"{name}_engine.py", python, tuple(extras[f"bench-{name}"]))
        for name, python in PYTHONS.items()
    }
    package = json.loads((ENGINES / "graphile" / "package.json").read_text())
    pins = tuple(f"{name}@{version}" for name, version in package["dependencies"].items())
    peers["graphile"] = Peer("graphile", ENGINES / "graphile" / "engine.mjs", None, pins)
    return peers


PEERS = _peers()


class _MissingError(Exception):
    """What an installation needs and is not there."""


def prepare(name: str) -> list[str] | Absent:
    """Installs the peer unless it is there; gives the command to put the program's words after."""
    peer = PEERS[name]
    try:
        return _with_node(peer) if peer.python is None else _with_python(peer, peer.python)
    except _MissingError as error:
        return Absent(str(error))
    except subprocess.CalledProcessError as error:
        said = [line.strip() for line in (error.stdout + error.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said or ["it says nothing"]
        return Absent(f"{Path(error.cmd[0]).name} fails: {errors[-1]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Absent(str(error).splitlines()[0])


def find_python(oldest: tuple[int, int]) -> str | None:
    """A Python with `venv`, this one or a later one: ours, one on PATH, one that pyenv has."""
    if sys.version_info >= oldest:
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    major, first = oldest
    for minor in range(first, first + 3):
        named = shutil.which(f"python{major}.{minor}")
        for found in ([named] if named else []) + [
            str(path) for path in sorted(versions.glob(f"{major}.{minor}.*/bin/python"))
        ]:
            if _works(found, oldest):
                return found
    return None


def _works(python: str, oldest: tuple[int, int]) -> bool:
    """A shim of pyenv may be on PATH for a version that is not chosen, Debian's lack ensurepip."""
    check = f"import ensurepip, sys; sys.exit(sys.version_info < {oldest})"
    return not subprocess.run([python, "-c", check], capture_output=True, check=False).returncode


def _with_python(peer: Peer, oldest: tuple[int, int]) -> list[str]:
    home = CACHE / peer.name
    python = home / "bin" / "python"
    if not (python.exists() and _is_stamped(peer)):
        found = find_python(oldest)
        if found is None:
            raise _MissingError(f"needs Python {oldest[0]}.{oldest[1]} or newer, and none is found")
        _run(found, "-m", "venv", "--clear", home)
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.pins)
        _stamp(peer)
    return [str(python), str(peer.program)]


def _with_node(peer: Peer) -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise _MissingError(f"needs {'npm' if node else 'Node'}, which is not on PATH")
    version = _run(node, "--version").removeprefix("v")
    if int(version.split(".")[0]) < NODE:
        raise _MissingError(f"needs Node {NODE} or newer, and there is {version}")
    home = CACHE / peer.name
    if not _is_stamped(peer):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(peer.program.with_name("package.json"), home)
        _run(npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", home)
        _stamp(peer)
    program = home / peer.program.name  # Node looks for packages where the program is
    shutil.copy(peer.program, program)
    return [node, str(program)]


def _run(*command: str | Path) -> str:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout.strip()


def _is_stamped(peer: Peer) -> bool:
    """Whether exactly these pins have been installed, to the end."""
    stamp = CACHE / peer.name / "pins"
    return stamp.exists() and stamp.read_text().splitlines() == list(peer.pins)


def _stamp(peer: Peer) -> None:
    (CACHE / peer.name / "pins").write_text("".join(f"{pin}\n" for pin in peer.pins))
