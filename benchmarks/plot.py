"""Charts of results/latest.json, for the docs: `make bench-plot`.

No background and a grey ink, so that they can be read on a light page and on a dark one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import matplotlib as mpl
import matplotlib.pyplot as plt

from bars import Results

if TYPE_CHECKING:
    from collections.abc import Callable

Axes: TypeAlias = Any

LATEST = Path(__file__).parent / "results" / "latest.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"

INK = "#7d8590"
PERDURE, FLOOR, PEER = "#d97706", "#7d8590", "#3b82c4"
COLOURS = {"perdure": PERDURE, "floor": FLOOR}
NAMES = {
    "perdure": "Perdure",
    "floor": "the floor",
    "procrastinate": "Procrastinate",
    "pgqueuer": "PgQueuer",
    "chancy": "Chancy",
    "oban": "Oban",
    "dbos": "DBOS",
    "graphile": "Graphile Worker",
}

STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.3,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "perdure",  # the same figures, the same file
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _colour(engine: str) -> str:
    return COLOURS.get(engine, PEER)


def _rows(results: Results, workload: str) -> list[dict[str, Any]]:
    return [row for row in results.workloads.get(workload, {}).get("rows", ()) if row["repeats"]]


def _spread(row: dict[str, Any], figure: str) -> list[list[float]]:
    middle = row["median"][figure]
    return [[middle - row["min"][figure]], [row["max"][figure] - middle]]


def throughput(results: Results, axes: Axes) -> bool:
    """Everybody's drain by one process, slowest first."""
    wanted = [
        row
        for row in _rows(results, "W2")
        if not any(word in row["variant"] for word in ("processes", "sync"))
    ]
    wanted.sort(key=lambda row: row["median"]["per_second"])
    for place, row in enumerate(wanted):
        rate = row["median"]["per_second"]
        axes.barh(
            place,
            rate,
            color=_colour(row["engine"]),
            xerr=_spread(row, "per_second"),
            ecolor=INK,
            error_kw={"linewidth": 1},
        )
        axes.annotate(
            f"{rate:,.0f}",
            (row["max"]["per_second"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    labels = [
        NAMES[row["engine"]] + ("" if row["variant"] == "its settings" else f", {row['variant']}")
        for row in wanted
    ]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("no-op executions per second, one worker process (log scale)")
    axes.set_title("Drain: median, least and most")
    return bool(wanted)


def floor_share(results: Results, axes: Axes) -> bool:
    """Perdure's drain as a part of the floor's, by batch."""
    found = []
    for batch in (1, 10, 100, 500):
        variant = f"batch {batch}"
        share = results.ratio("W2", ("perdure", variant), ("floor", variant))
        if share is not None:
            found.append((str(batch), share))
    axes.bar([batch for batch, _ in found], [share for _, share in found], color=PERDURE, width=0.6)
    for place, (_, share) in enumerate(found):
        axes.annotate(
            f"{share:.2f}",
            (place, share),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
        )
    axes.axhline(0.6, color=INK, linewidth=1, linestyle="--")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("batch")
    axes.set_ylabel("of the floor's rate")
    axes.set_title("Drain as a part of bare SQL on the same tables (bar: 0.6)")
    return bool(found)


def latency(results: Results, axes: Axes) -> bool:
    """From p50 by p99 to the slowest, by engine."""
    rows = sorted(_rows(results, "W3"), key=lambda row: row["median"]["p50_ms"], reverse=True)
    for place, row in enumerate(rows):
        colour = _colour(row["engine"])
        p50, p99 = (row["median"][name] for name in ("p50_ms", "p99_ms"))
        slowest = row["max"]["max_ms"]
        axes.plot([p50, slowest], [place, place], color=colour, linewidth=1)
        axes.plot([p50, p99], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
        axes.plot(p50, place, "o", color=colour, markersize=8)
        axes.plot(slowest, place, "|", color=colour, markersize=9)
        axes.annotate(
            f"{p50:.1f} / {p99:.1f}",
            (slowest, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [NAMES[row["engine"]] for row in rows])
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.08)
    axes.set_xlabel("ms from commit to body, idle system (log scale)")
    axes.set_title("Latency: p50 (dot), p99 (thick), slowest (thin)")
    return bool(rows)


FLATNESS = (
    ("W7", "1 M finished", "nothing finished"),
    ("W7", "10 M finished", "nothing finished"),
    ("W8", "1 M ready", "10 k ready"),
    ("W8", "1 M due tomorrow", "nothing else"),
    ("W8", "100 k unknown in front", "nothing else"),
    ("W9", "held snapshot", "no snapshot"),
    ("W10", "64 connections", "1 connection"),
)


def flatness(results: Results, axes: Axes) -> bool:
    """What is left of the rate beside history, backlog, snapshots and many connections."""
    labels: list[str] = []
    for workload, variant, without in FLATNESS:
        shares = {
            engine: results.ratio(workload, (engine, variant), (engine, without))
            for engine in ("perdure", "floor")
        }
        if shares["perdure"] is None:
            continue
        for offset, (engine, share) in zip((-0.2, 0.2), shares.items(), strict=True):
            if share is not None:
                label = NAMES[engine] if not labels else None
                place = len(labels) + offset
                axes.barh(place, share, height=0.36, color=_colour(engine), label=label)
        labels.append(variant)
    axes.axvline(1.0, color=INK, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("rate beside it, of the rate without")
    axes.set_title("Drain beside history, a backlog, a held snapshot, other connections")
    if labels:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return bool(labels)


CHARTS: dict[str, tuple[Callable[[Results, Axes], bool], tuple[float, float]]] = {
    "bench-throughput": (throughput, (8.0, 4.6)),
    "bench-floor": (floor_share, (6.0, 3.4)),
    "bench-latency": (latency, (8.0, 3.4)),
    "bench-flatness": (flatness, (8.0, 3.6)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=LATEST)
    parser.add_argument("--images", type=Path, default=IMAGES)
    given = parser.parse_args()
    if not given.results.exists():
        sys.exit(f"{given.results} is not there: `make bench` writes it")
    results = Results(json.loads(given.results.read_text())["workloads"])
    given.images.mkdir(parents=True, exist_ok=True)
    mpl.use("svg")
    settings: Any = mpl.rcParams
    settings.update(STYLE)
    for name, (draw, size) in CHARTS.items():
        figure, axes = plt.subplots(figsize=size)
        if draw(results, axes):
            path = given.images / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            print(path)
        else:
            print(f"{name}: nothing was measured for it")
        plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
