"""How soon another holds a lock when its holder ends: `make bench-failover`.

Three processes stand for one channel, each on a machine of its own (a network namespace) where that
can be had; the server has durable settings. Each trial ends the holder in one way and waits for the
next election. All clocks are CLOCK_MONOTONIC of one system. Cutting a cable needs root and `ip`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import connect
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fix_locks import SCRIPT, LockProgram, names_of
from fix_machines import Machine, OwnServer, open_network, own_server, why_no_machines
from perdure._server import DURABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "results" / "failover.json"
CANDIDATES = 3
LIMITS = {"SIGTERM": 0.150, "kill -9": 0.300, "SIGSTOP": 1.5, "partition": 1.5}


@dataclass
class Candidate:
    """A process that stands for the channel, and where it runs."""

    dsn: str
    machine: Machine | None
    program: LockProgram = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        dsn = self.machine.dsn(self.dsn) if self.machine else self.dsn
        prefix = self.machine.prefix if self.machine else []
        self.program = LockProgram(
            SCRIPT, "failover", "signals=1", names=names_of(dsn), prefix=prefix
        )
        self.program.expect("ready")
        self.program.say("stand")

    def settle(self) -> bool:
        """Whether it holds the lock, as soon as it has heard from the database."""
        while (answer := self.program.asks("acquire 0")) not in ("True", "False"):
            time.sleep(0.05)
        return answer == "True"


@dataclass
class Measured:
    """One kind of end, trial by trial, in seconds."""

    elected: list[float] = field(default_factory=list)
    conceded_before: list[float] = field(default_factory=list)

    def summary(self, limit: float) -> dict[str, Any]:
        found = {
            "trials": len(self.elected),
            "median_ms": 1000 * statistics.median(self.elected),
            "max_ms": 1000 * max(self.elected),
            "limit_ms": 1000 * limit,
        }
        if self.conceded_before:
            found["least_conceded_before_ms"] = 1000 * min(self.conceded_before)
            found["median_conceded_before_ms"] = 1000 * statistics.median(self.conceded_before)
        return found


class Trials:
    def __init__(self, dsn: str, machines: list[Machine]) -> None:
        placed: list[Machine | None] = [*machines] or [None] * CANDIDATES
        self.candidates = [Candidate(dsn, machine) for machine in placed]
        self.holders: dict[int, set[str]] = defaultdict(set)

    def run(self, event: str, measured: Measured) -> None:
        while not (leaders := [one for one in self.candidates if one.settle()]):
            time.sleep(0.05)
        (old,) = leaders
        for one in self.candidates:
            one.program.skip()
        time.sleep(random.uniform(0.5, 1.0))  # not in step with anybody's retries
        ended = time.monotonic()
        self._end(event, old)
        new = next(self._next_holder(old))
        measured.elected.append(new - ended)
        self._restore(event, old, new, measured)

    def _end(self, event: str, old: Candidate) -> None:
        match event:
            case "SIGTERM":
                old.program.send(signal.SIGTERM)
            case "kill -9":
                old.program.send(signal.SIGKILL)
            case "SIGSTOP":
                old.program.send(signal.SIGSTOP)
            case "partition":
                assert old.machine is not None
                old.machine.cut()

    def _next_holder(self, old: Candidate) -> Iterator[float]:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            for one in self.candidates:
                if one is not old:
                    with contextlib.suppress(AssertionError):
                        yield one.program.acquired(within=0.005)[2]
        raise SystemExit("nobody was elected within 30 s")

    def _restore(self, event: str, old: Candidate, new: float, measured: Measured) -> None:
        match event:
            case "SIGSTOP":
                old.program.send(signal.SIGCONT)
                old.program.expect("lost")
            case "partition":
                assert old.machine is not None
                old.machine.mend()
                conceded = float(old.program.expect("lost").split()[1])
                measured.conceded_before.append(new - conceded)
            case _:
                old.program.join()
                self._note_holders(old)
                old.program.close()
                old.start()

    def _note_holders(self, candidate: Candidate) -> None:
        for line in candidate.program.told:
            if line.startswith("acquired "):
                _, epoch, holder, _ = line.split()
                self.holders[int(epoch)].add(holder)

    def close(self) -> None:
        for candidate in self.candidates:
            self._note_holders(candidate)
            candidate.program.close()


@contextlib.contextmanager
def stage() -> Iterator[tuple[OwnServer, list[Machine]]]:
    """A server, and the machines that reach it, if there can be any."""
    if reason := why_no_machines():
        Console(stderr=True).print(f"no partition: {reason}")
        with own_server(dict(DURABLE)) as server:
            yield server, []
    else:
        with open_network(CANDIDATES, dict(DURABLE)) as network:
            yield network.server, network.machines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="for each kind of end (default: 20)")
    given = parser.parse_args()
    with stage() as (server, machines):
        events = [event for event in LIMITS if machines or event != "partition"]
        measured = {event: Measured() for event in events}
        with connect(server.dsn) as conn:
            version = conn.execute("show server_version").fetchone()
        name = str(conninfo_to_dict(server.template)["dbname"])
        trials = Trials(make_conninfo(server.dsn, dbname=name), machines)
        try:
            order = events * given.trials  # by turns: whatever else the system does hits all alike
            for event in track(order, "ending", console=Console(stderr=True), transient=True):
                trials.run(event, measured[event])
        finally:
            trials.close()
    doubled = sorted(epoch for epoch, holders in trials.holders.items() if len(holders) > 1)
    result: dict[str, Any] = {
        "events": {event: measured[event].summary(LIMITS[event]) for event in events},
        "epochs": len(trials.holders),
        "epochs_with_two_holders": doubled,
        "postgresql": version and version[0],
        "cpus": os.cpu_count(),
        "ttl_s": 1.0,
        "retry_s": 0.25,
        "candidates": CANDIDATES,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return report(result)


def ms(value: float) -> str:
    return f"{value:.0f} ms"


def report(result: dict[str, Any]) -> int:
    """Prints the table; 1 where a bar was missed."""
    table = Table(
        "the holder's end",
        "trials",
        "median",
        "max",
        "bar of max",
        "old one conceded before, at least",
        title="until another is elected",
    )
    is_good = not result["epochs_with_two_holders"]
    for event, found in result["events"].items():
        least = found.get("least_conceded_before_ms")
        is_good &= found["max_ms"] <= found["limit_ms"] and (least is None or least > 0)
        table.add_row(
            event,
            str(found["trials"]),
            ms(found["median_ms"]),
            ms(found["max_ms"]),
            ms(found["limit_ms"]),
            "" if least is None else ms(least),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{result['epochs']} epochs, of which {len(result['epochs_with_two_holders'])}"
        " had two holders"
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
