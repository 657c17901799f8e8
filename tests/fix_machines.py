"""What stands between a program and its database: networks, proxies, poolers, restarts, standbys.

Machines are network namespaces, each with a cable of its own to the server that can be cut so that
packets vanish without a word. They need root and the program `ip`, PgBouncer its own program, a
hot standby `pg_basebackup`; a test that lacks one is skipped and says so.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fix_server import Server, fast_place
from perdure import _schema
from perdure._server import THROW_AWAY, LocalServer, find_binaries

PATIENCE = 20.0
_NOWHERE = "02:00:00:00:00:99"  # a hardware address that nobody has
_PLAIN = {"sslmode": "disable", "gssencmode": "disable"}  # a proxy can read along

# A standby can follow it, and it survives `stop -m immediate`.
REPLICATED = {**THROW_AWAY, "max_wal_senders": "4", "wal_level": "replica"}


def await_that(is_so: Callable[[], object], *, within: float = PATIENCE) -> None:
    """For states of which nobody tells."""
    give_up = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.01)


class OwnServer(Server):
    """A server for tests that do to it what others would not survive; stop and start it at will."""

    def __init__(self, local: LocalServer) -> None:
        super().__init__(local.dsn, local)
        self.template = self.create("template0")
        with psycopg.connect(self.template, autocommit=True) as conn:
            conn.execute(_schema.install_sql().encode())

    @property
    def process(self) -> int:
        assert self.local is not None
        return int((self.local.data / "postmaster.pid").read_text().splitlines()[0])

    def stop_immediately(self) -> None:
        """As `pg_ctl stop -m immediate`: no goodbyes, recovery at the next start."""
        assert self.local is not None
        self.close()
        process = self.process
        os.kill(process, signal.SIGQUIT)
        await_that(lambda: not Path(f"/proc/{process}").exists())
        self.local.stop()

    def start(self) -> None:
        assert self.local is not None
        self.local.start()


@contextlib.contextmanager
def own_server(settings: dict[str, str], *, networks: str = "") -> Iterator[OwnServer]:
    """A fresh server; machines of `networks` (in CIDR notation) are let in."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-own-", dir=fast_place()))
    named = os.environ.get("PERDURE_TEST_BINDIR")
    binaries = Path(named) if named else find_binaries()
    try:
        with LocalServer(folder, binaries=binaries, settings=settings) as local:
            if networks:
                with (local.data / "pg_hba.conf").open("a") as access:
                    access.write(f"host all all {networks} trust\n")
                with psycopg.connect(local.dsn) as conn:
                    conn.execute("select pg_reload_conf()")
            server = OwnServer(local)
            yield server
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# A server of the run's own, for what the common one is not asked to bear


@pytest.fixture(scope="session")
def private_server() -> Iterator[OwnServer]:
    """A server that tests may stop and start; no machine reaches it but this."""
    with own_server(REPLICATED) as server:
        yield server


@pytest.fixture
def private_db(private_server: OwnServer) -> Iterator[str]:
    """The DSN of a database of the test's own there, over a unix socket."""
    with private_server.database(private_server.template) as dsn:
        yield dsn


# Machines -----------------------------------------------------------------------------------------


class Machine:
    """A network namespace with one cable to the server."""

    def __init__(self, number: int, network: str) -> None:
        self.name = f"perdure{os.getpid()}m{number}"
        self._cable = f"pd{os.getpid() % 1_000_000}n{number}"
        base = number * 4
        self.server_address = f"{network}.{base + 1}"
        self.address = f"{network}.{base + 2}"
        far = f"{self._cable}f"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", far, "netns", self.name)
        _ip("addr", "add", f"{self.server_address}/30", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        self._far = far
        self._inside("addr", "add", f"{self.address}/30", "dev", far)
        self._inside("link", "set", far, "up")
        self._inside("link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run on this machine."""
        return ["ip", "netns", "exec", self.name]

    def dsn(self, dsn: str) -> str:
        """The same database as seen from here."""
        return make_conninfo(dsn, host=self.server_address, port="5432")

    def cut(self) -> None:
        """From now on packets vanish, in both directions: no error, no reset."""
        _ip("neigh", "replace", self.address, "lladdr", _NOWHERE, "dev", self._cable)
        self._inside("neigh", "replace", self.server_address, "lladdr", _NOWHERE, "dev", self._far)

    def mend(self) -> None:
        _ip("neigh", "del", self.address, "dev", self._cable)
        self._inside("neigh", "del", self.server_address, "dev", self._far)

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def close(self) -> None:
        for arguments in (("link", "del", self._cable), ("netns", "del", self.name)):
            subprocess.run(["ip", *arguments], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_no_machines() -> str | None:
    """Why this system cannot have machines; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not installed"
    probe = f"perdure{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True)
    if made.returncode:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


class Network:
    """Some machines, and a server that they can reach."""

    def __init__(self, machines: list[Machine], server: OwnServer) -> None:
        self.machines = machines
        self.server = server


@contextlib.contextmanager
def open_network(count: int, settings: dict[str, str]) -> Iterator[Network]:
    """So many machines around a fresh server."""
    network = f"10.213.{os.getpid() % 250}"
    machines: list[Machine] = []
    try:
        for number in range(count):
            machines.append(Machine(number, network))
        addresses = ",".join(machine.server_address for machine in machines)
        reachable = {**settings, "listen_addresses": addresses}
        with own_server(reachable, networks=f"{network}.0/24") as server:
            yield Network(machines, server)
    finally:
        for machine in machines:
            machine.close()


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Three machines around a server of their own; the tests mend the cables that they cut."""
    if reason := why_no_machines():
        pytest.skip(reason)
    with open_network(3, REPLICATED) as opened:
        yield opened


@pytest.fixture
def network_db(network: Network) -> Iterator[str]:
    """The DSN of a database of the test's own there, for this process; `machine.dsn` for others."""
    with network.server.database(network.server.template) as dsn:
        yield dsn


# A proxy that can fall silent ---------------------------------------------------------------------


class _Conversation:
    """One client and its server, message by message."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = {client: server, server: client}
        self.client = client
        self._rest = {client: b"", server: b""}
        self._has_started = False
        self.is_dropped = False
        self.asked = 0  # questions without an answer

    def messages(self, end: socket.socket, data: bytes) -> Iterator[bytes]:
        """The whole messages, with what came earlier; the client's first has no type."""
        rest = self._rest[end] + data
        while True:
            head = 0 if end is self.client and not self._has_started else 1
            if len(rest) < head + 4:
                break
            (length,) = struct.unpack_from("!I", rest, head)
            if len(rest) < head + length:
                break
            message, rest = rest[: head + length], rest[head + length :]
            if head == 0:
                self._has_started = True
            yield message
        self._rest[end] = rest

    def close(self) -> None:
        for end in self.ends:
            end.close()


class Proxy:
    """Stands between clients and a server; can swallow everything, or notifications alone."""

    def __init__(self, dsn: str) -> None:
        given = conninfo_to_dict(dsn)
        self._upstream = f"{given['host']}/.s.PGSQL.{given.get('port') or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=str(self.port), **_PLAIN)
        self._conversations: dict[socket.socket, _Conversation] = {}
        self._woken, self._waker = os.pipe()
        self._is_over = False
        self.is_silent = False
        self.is_deaf = False
        self.opened = 0
        self.asked = 0
        self.most_asked = 0  # most questions of one client that were under way at once
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fall_silent(self) -> None:
        """Conversations are dead from now on, and new ones get no answer; nobody is told."""
        self.is_silent = True
        for conversation in list(self._conversations.values()):
            conversation.is_dropped = True

    def speak(self) -> None:
        """New conversations get through; those that were dropped stay dead."""
        self.is_silent = False

    def _run(self) -> None:
        while not self._is_over:
            ends: list[Any] = [self._listener, self._woken, *self._conversations]
            ready, _, _ = select.select(ends, [], [])
            for end in ready:
                if end is self._listener:
                    self._accept()
                elif isinstance(end, socket.socket) and end in self._conversations:
                    self._pass_on(end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._upstream)
        except OSError:
            client.close()
            return
        self.opened += 1
        conversation = _Conversation(client, server)
        conversation.is_dropped = self.is_silent
        self._conversations |= dict.fromkeys((client, server), conversation)

    def _pass_on(self, end: socket.socket) -> None:
        conversation = self._conversations[end]
        try:
            data = end.recv(65536)
        except OSError:
            data = b""
        if not data:
            if conversation.is_dropped and end is not conversation.client:
                del self._conversations[end]  # whom it would have told does not hear it
                return
            self._end(conversation)
            return
        kept = []
        for message in conversation.messages(end, data):
            if end is conversation.client:
                if message[:1] in (b"Q", b"S"):
                    self.asked += 1
                    conversation.asked += 1
                    self.most_asked = max(self.most_asked, conversation.asked)
            elif message[:1] == b"Z":
                conversation.asked = max(0, conversation.asked - 1)
            elif message[:1] == b"A" and self.is_deaf:
                continue
            kept.append(message)
        if kept and not conversation.is_dropped:
            try:
                conversation.ends[end].sendall(b"".join(kept))
            except OSError:
                self._end(conversation)

    def _end(self, conversation: _Conversation) -> None:
        conversation.close()
        for end in conversation.ends:
            self._conversations.pop(end, None)

    def close(self) -> None:
        self._is_over = True
        os.write(self._waker, b"!")
        self._thread.join(PATIENCE)
        for conversation in list(self._conversations.values()):
            conversation.close()
        self._listener.close()
        for pipe in (self._woken, self._waker):
            os.close(pipe)


@pytest.fixture
def start_proxy() -> Iterator[Callable[[str], Proxy]]:
    """Puts a proxy before a database."""
    started: list[Proxy] = []

    def start(dsn: str) -> Proxy:
        started.append(Proxy(dsn))
        return started[-1]

    yield start
    for proxy in started:
        proxy.close()


# PgBouncer ----------------------------------------------------------------------------------------


class Pooler:
    """PgBouncer in transaction mode before a server."""

    def __init__(self, dsn: str) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("pgbouncer is not installed")
        given = conninfo_to_dict(dsn)
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-pool-", dir="/tmp"))
        self._folder.chmod(0o755)
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(
            f"""
[databases]
* = host={given["host"]} user={given["user"]}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {self._folder}
logfile = {self._folder}/log
auth_type = any
pool_mode = transaction
max_client_conn = 500
default_pool_size = 4
server_login_retry = 0.05
"""
        )
        self._command = [program, "-q", str(settings)]
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:  # as which it refuses to run
            user = pwd.getpwuid(Path(str(given["host"])).stat().st_uid)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def dsn(self, dsn: str) -> str:
        """The same database through the pooler."""
        return make_conninfo(dsn, host=str(self._folder), port="6432")

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd="/", **self._identity)
        await_that(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._folder / ".s.PGSQL.6432"))
            return True
        return False

    def kill(self) -> None:
        """No goodbyes: its clients and its servers lose their connections."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        (self._folder / "pgbouncer.pid").unlink(missing_ok=True)
        (self._folder / ".s.PGSQL.6432").unlink(missing_ok=True)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pooler(server: Server) -> Iterator[Pooler]:
    """PgBouncer before the run's server; skips where that is not ours."""
    if server.local is None:
        pytest.skip("the pooler stands before a local server")
    opened = Pooler(server.dsn)
    yield opened
    opened.close()


# A hot standby ------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_standby(primary: OwnServer) -> Iterator[str]:
    """The DSN of a hot standby of that server."""
    assert primary.local is not None
    row = primary.admin.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
    assert row
    copy = Path(row[0]) / "pg_basebackup"
    if not copy.exists():
        pytest.skip("pg_basebackup is not installed")
    owner = primary.local.data.stat()
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="perdure-standby-", dir="/tmp"))
    os.chown(folder, owner.st_uid, owner.st_gid)
    data = folder / "data"
    subprocess.run(
        [copy, "-D", data, "-R", "-c", "fast", "--no-sync", "-d", primary.dsn],
        check=True,
        cwd="/",
        capture_output=True,
        **identity,
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [Path(row[0]) / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            cwd="/",
            stdout=log,
            stderr=log,
            **identity,
        )
    dsn = make_conninfo(primary.dsn, host=str(folder))
    try:
        await_that(lambda: _answers(dsn))
        yield dsn
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(dsn: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn):
        return True
    return False


# Programs under test ------------------------------------------------------------------------------


class Program:
    """A Python script in a process of its own; it prints a line for each event."""

    def __init__(
        self,
        script: Path,
        *arguments: str,
        names: Mapping[str, str],
        prefix: Sequence[str] = (),
    ) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(script), *arguments],
            env={**os.environ, **names, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told: list[str] = []
        self._news = threading.Condition()
        self._read: dict[str, int] = {}  # for each word, what was expected already
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the script itself: what starts it on a machine becomes it."""
        return self._process.pid

    def _read_all(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.told.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.told.append("(end)")
            self._news.notify_all()

    def expect(self, word: str, *, within: float = PATIENCE) -> str:
        """The next line that starts with this word; what follows on it."""
        give_up = time.monotonic() + within
        with self._news:
            while True:
                for number in range(self._read.get(word, 0), len(self.told)):
                    first, _, rest = self.told[number].partition(" ")
                    if first == word:
                        self._read[word] = number + 1
                        return rest
                assert "(end)" not in self.told, f"no {word!r} before its end: {self.errors()}"
                left = give_up - time.monotonic()
                assert left > 0, f"no {word!r} within {within} s, but {self.told}"
                self._news.wait(left)

    def skip(self) -> None:
        """Only what is told from now on is expected."""
        with self._news:
            words = {line.partition(" ")[0] for line in self.told}
            self._read = dict.fromkeys(words, len(self.told))

    def say(self, line: str) -> None:
        """One line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def errors(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def join(self, *, within: float = PATIENCE) -> int:
        """The exit code, once it has ended."""
        return self._process.wait(within)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
