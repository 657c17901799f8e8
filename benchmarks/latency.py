"""How long an enqueue into an idle system takes to reach a body: `make bench-latency`.

One process enqueues and waits until the body has begun, then long enough for the worker to have
gone to sleep again; another one works. The body takes the time at its start; both clocks are
CLOCK_MONOTONIC of one machine. The fallback poll is set to 60 s: a lost wake-up could not hide. The
server has durable settings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from perdure import App, _schema
from perdure._server import DURABLE, LocalServer

RESULTS = Path(__file__).parent / "results" / "latency.json"
LIMIT = 0.250  # of the slowest one
POLL = 60.0

app = App()


@app.task
async def stamp() -> None:
    print(time.monotonic(), flush=True)


def serve(dsn: str) -> None:
    """The working process; it prints when each body begins."""
    import asyncio

    app.dsn = dsn
    asyncio.run(app.run_worker(poll=POLL))


def measure(dsn: str, worker: subprocess.Popen[str], samples: int, pause: float) -> list[float]:
    """Seconds from just before the enqueue (its commit included) to the start of the body."""
    assert worker.stdout is not None
    latencies = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select perdure.enqueue('stamp')")
        worker.stdout.readline()  # the worker is there
        for _ in track(range(samples), "enqueueing", console=Console(stderr=True), transient=True):
            time.sleep(pause)
            began = time.monotonic()
            conn.execute("select perdure.enqueue('stamp')")
            latencies.append(float(worker.stdout.readline()) - began)
    return latencies


def summarise(latencies: list[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "samples": len(latencies),
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
        "p99_ms": 1000 * cuts[98],
        "max_ms": 1000 * max(latencies),
        "limit_of_max_ms": 1000 * LIMIT,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds of sleep before each")
    parser.add_argument("--serve", metavar="DSN", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return 0
    with (
        tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder,
        LocalServer(Path(folder) / "server", settings=DURABLE) as server,
    ):
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            _schema.migrate(conn)
            version = conn.execute("show server_version").fetchone()
        worker = subprocess.Popen(
            [sys.executable, __file__, "--serve", server.dsn], stdout=subprocess.PIPE, text=True
        )
        try:
            result = summarise(measure(server.dsn, worker, given.samples, given.pause))
        finally:
            worker.terminate()
            worker.wait(30)
    result |= {
        "postgresql": version and version[0],
        "cpus": os.cpu_count(),
        "fallback_poll_s": POLL,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("samples", "p50", "p95", "p99", "max", "bar", title="enqueue to body start")
    table.add_row(
        f"{result['samples']:,}",
        *(f"{result[name]:.2f} ms" for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")),
        f"max < {1000 * LIMIT:.0f} ms",
    )
    Console().print(table)
    return 0 if result["max_ms"] < 1000 * LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
