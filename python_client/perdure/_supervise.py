"""Runs one server program and ends it when its owner ends, however that happens.

A process of its own, started as a script with the standard library alone. The owner holds the
other end of stdin: the pipe closes when the owner dies, by SIGKILL too, and whichever thread
started us. Should this process be killed, Linux tells the server itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def main() -> int:
    job = json.loads(sys.argv[1])
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    with Path(job["log"]).open("ab") as log:
        server = subprocess.Popen(
            **job["server"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )
    try:
        while server.poll() is None:
            readable, _, _ = select.select([sys.stdin, wake_read], [], [])
            if wake_read in readable and set(os.read(wake_read, 64)) == {signal.SIGCHLD}:
                continue
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            try:
                server.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait()
    finally:
        for path in job["remove"]:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                Path(path).unlink()
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
