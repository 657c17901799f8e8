"""Perdure, its floor and its peers side by side: `make bench`, `make bench-quick`.

Every figure of every repeat goes to results/latest.json, anew after each workload. The quick one
is held against results/quick.json instead, which `--save` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from rich.console import Console
from rich.table import Table

from bars import Results, judge
from perdure import _schema
from rig import OWN, PEERS, Failed, Rig, Skipped
from workloads import WORKLOADS, Plan, Scale, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rig import Figures
    from workloads import Case

Json: TypeAlias = "dict[str, Any]"

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LATEST, QUICK = RESULTS / "latest.json", RESULTS / "quick.json"
REPEATS = {Scale.QUICK: 3, Scale.NORMAL: 3, Scale.FULL: 5}
MOVED = 0.1
NOISY = 0.3  # cores that others kept busy

# Figure → heading and digits, in the order of the tables.
COLUMNS: Mapping[str, tuple[str, int]] = {
    "per_second": ("per second", 0),
    "seconds": ("s", 3),
    "p50_ms": ("p50 ms", 2),
    "p95_ms": ("p95 ms", 2),
    "p99_ms": ("p99 ms", 2),
    "max_ms": ("max ms", 2),
    "first_minute": ("first minute, per s", 0),
    "last_minute": ("last minute, per s", 0),
    "dead_first_half": ("dead, 1st half", 0),
    "dead_second_half": ("2nd half", 0),
    "dead_most": ("most", 0),
    "rooms_mb_at_half": ("rooms MB, half-way", 1),
    "rooms_mb_at_end": ("at end", 1),
    "statements": ("statements", 3),
    "commits": ("commits", 3),
    "wal_bytes": ("log B", 0),
    "wal_all_in": ("log B, whole life", 0),
    "server_us": ("server µs", 0),
    "client_us": ("client µs", 0),
    "peak_rss_mb": ("peak MB", 0),
    "others": ("others", 2),
}
COMPARED = {  # figure → whether more of it is better
    "per_second": True,
    "seconds": False,
    "p50_ms": False,
    "statements": False,
    "wal_bytes": False,
}

# What may go wrong with one engine is told in its row; the others go on.
TROUBLE = (Failed, psycopg.Error, OSError, subprocess.SubprocessError)


# Measuring ----------------------------------------------------------------------------------------


def run_workload(workload: Workload, plan: Plan, repeats: int, tell: Callable[[str], None]) -> Json:
    """All its cases, in turn and again: noise that lasts hits all of them."""
    began = time.monotonic()
    cases: list[Case] = []
    taken: list[list[Figures]] = []
    reasons: dict[int, str] = {}
    trouble = None
    with plan.stack:
        try:
            cases = list(workload.cases(plan))
        except (Skipped, *TROUBLE) as error:
            trouble = _first_line(error)
            tell(f"{workload.name} could not be prepared: {trouble}")
        taken = [[] for _ in cases]
        for repeat in range(repeats):
            for number, case in enumerate(cases):
                if number in reasons:
                    continue
                label = f"{workload.name} {repeat + 1}/{repeats} {case.engine}, {case.variant}"
                try:
                    figures = case.measure()
                except Skipped as skipped:
                    reasons[number] = str(skipped)
                except TROUBLE as error:
                    reasons[number] = f"failed: {_first_line(error)}"
                else:
                    taken[number].append(figures)
                    tell(f"{label}: {_gist(figures)}")
                    continue
                tell(f"{label}: {reasons[number]}")
    rows = [
        _row(case, figures, reasons.get(number))
        for number, (case, figures) in enumerate(zip(cases, taken, strict=True))
    ]
    _add_shares(rows)
    return {
        "title": workload.title,
        "seconds": time.monotonic() - began,
        "reason": trouble,
        "rows": rows,
    }


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _row(case: Case, repeats: list[Figures], reason: str | None) -> Json:
    names = list(repeats[0]) if repeats else []
    columns = {name: [figures[name] for figures in repeats if name in figures] for name in names}
    return {
        "engine": case.engine,
        "variant": case.variant,
        "floor": case.floor,
        "reason": reason,
        "repeats": repeats,
        "median": {name: statistics.median(values) for name, values in columns.items()},
        "min": {name: min(values) for name, values in columns.items()},
        "max": {name: max(values) for name, values in columns.items()},
    }


def _add_shares(rows: list[Json]) -> None:
    """What part of the floor's rate each has; where there is no rate: how often its median time."""
    floors = {row["variant"]: row["median"] for row in rows if row["engine"] == "floor"}
    for row in rows:
        floor = floors.get(row["floor"], {})
        for name in ("per_second", "p50_ms"):
            if floor.get(name) and name in row["median"]:
                row["of_floor"] = row["median"][name] / floor[name]
                break


def _gist(figures: Figures) -> str:
    if "per_second" in figures:
        text = f"{figures['per_second']:,.0f}/s"
    else:
        text = f"p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms"
    if figures.get("others", 0.0) > NOISY:
        text += f" (noisy: others kept {figures['others']:.1f} cores busy)"
    return text


# Showing ------------------------------------------------------------------------------------------


def show_workload(console: Console, name: str, found: Json) -> None:
    rows = found["rows"]
    shown = [name for name in COLUMNS if any(name in row["median"] for row in rows)]
    console.print(f"[bold]{name}[/]: {found['title']}", highlight=False)
    table = Table()
    table.add_column("engine", no_wrap=True)
    table.add_column("", no_wrap=True)
    for column in shown:
        table.add_column(COLUMNS[column][0], justify="right")
    table.add_column("of the floor", justify="right")
    notes = [f"not prepared: {found['reason']}"] if found["reason"] else []
    for row in rows:
        if row["reason"]:
            notes.append(f"{row['engine']}, {row['variant']}: {row['reason']}")
        if not row["repeats"]:
            continue
        cells = [cell(row, column) for column in shown]
        share = f"{row['of_floor']:.2f}" if "of_floor" in row else ""
        table.add_row(row["engine"], row["variant"], *cells, share)
    console.print(table)
    for line in notes:
        console.print(f"  {line}", highlight=False, markup=False)
    console.print(f"  {found['seconds']:.0f} s\n", highlight=False)


def cell(row: Json, column: str) -> str:
    """A figure as it is shown, with its spread where that matters."""
    if column not in row["median"]:
        return ""
    digits = COLUMNS[column][1]
    text = f"{row['median'][column]:,.{digits}f}"
    if column in ("per_second", "p99_ms", "seconds") and len(row["repeats"]) > 1:
        text += f" ({row['min'][column]:,.{digits}f}–{row['max'][column]:,.{digits}f})"
    return text


def show_bars(console: Console, results: Results, *, is_quick: bool = False) -> None:
    table = Table(title="The bars", title_justify="left")
    for heading in ("", "what", "bar", "figure", ""):
        table.add_column(heading)
    marks = {True: "reached", False: "[bold]missed[/]", None: ""}
    for verdict in judge(results):
        if verdict.workload not in results.workloads or (is_quick and verdict.figure is None):
            continue  # was not asked for
        table.add_row(
            verdict.workload,
            verdict.text,
            verdict.demand,
            verdict.shown,
            marks[verdict.is_reached],
        )
    console.print(table)


def show_about(console: Console, about: Json) -> None:
    for part in ("hardware", "settings"):
        pairs = ", ".join(f"{name} {value}" for name, value in about[part].items())
        console.print(f"{part}: {pairs}", highlight=False, markup=False)
    console.print()


# Comparing ----------------------------------------------------------------------------------------


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """What differs by more than a tenth: row, figure, before, after, by how much, a word."""
    for name, found in after["workloads"].items():
        old_rows = {
            (row["engine"], row["variant"]): row["median"]
            for row in before["workloads"].get(name, {}).get("rows", ())
        }
        for row in found["rows"]:
            old = old_rows.get((row["engine"], row["variant"]), {})
            for figure, is_more_better in COMPARED.items():
                if figure == "seconds" and "per_second" in row["median"]:
                    continue  # the same once more
                was, new = old.get(figure), row["median"].get(figure)
                if not was or new is None or abs(new / was - 1) <= MOVED:
                    continue
                digits = COLUMNS[figure][1]
                yield (
                    f"{name} {row['engine']}, {row['variant']}",
                    COLUMNS[figure][0],
                    f"{was:,.{digits}f}",
                    f"{new:,.{digits}f}",
                    f"{new / was - 1:+.0%}",
                    "better" if (new > was) == is_more_better else "worse",
                )


def show_moved(console: Console, before: Json, after: Json) -> None:
    differing = [
        name
        for name in ("cpu", "cores", "postgresql")
        if before["hardware"].get(name) != after["hardware"].get(name)
    ]
    if differing:
        console.print(
            f"The committed result is of another machine ({', '.join(differing)}): only its"
            " statements and bytes can be compared.\n",
            highlight=False,
        )
    rows = [
        row
        for row in moved(before, after)
        if not differing or row[1] in (COLUMNS["statements"][0], COLUMNS["wal_bytes"][0])
    ]
    if not rows:
        console.print(f"Nothing moved by more than {MOVED:.0%} against {before['at']}.")
        return
    table = Table(title=f"Moved by more than {MOVED:.0%} against {before['at']}")
    for heading in ("", "figure", "before", "after", "", ""):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)


# The command --------------------------------------------------------------------------------------


def _names(text: str | None, known: Sequence[str], kind: str) -> list[str]:
    if not text:
        return list(known)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in known]:
        sys.exit(f"no {kind} {', '.join(unknown)}: there are {', '.join(known)}")
    return [name for name in known if name in asked]


def _write(path: Path, about: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(about, indent=1) + "\n")
    part.replace(path)


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Perdure and the floor, in a minute")
    parser.add_argument("--full", action="store_true", help="everything everywhere")
    parser.add_argument("--only", help="workloads, with commas: W2,W3")
    parser.add_argument("--engines", help="engines, with commas: perdure,floor")
    parser.add_argument("--repeats", type=int, help="how often each case is run")
    parser.add_argument("--save", action="store_true", help="keep a quick result to compare with")
    parser.add_argument("--output", type=Path, help="where the result goes")
    given = parser.parse_args()
    scale = Scale.QUICK if given.quick else Scale.FULL if given.full else Scale.NORMAL
    known = [name for name, workload in WORKLOADS.items() if workload.is_quick or not given.quick]
    names = _names(given.only, known, "workload")
    engines = _names(given.engines, OWN if given.quick else (*OWN, *PEERS), "engine")
    output = given.output or (None if given.quick else LATEST)
    console = Console(width=None if sys.stdout.isatty() else 200)
    progress = Console(stderr=True, highlight=False, markup=False)

    with Rig(ROOT / ".cache" / "bench") as rig:
        about: Json = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "scale": scale.name.lower(),
            "version": _schema.client_version(),
            "commit": _commit(),
            "load": os.getloadavg()[0],
            "hardware": rig.hardware(),
            "settings": rig.settings(),
            "engines": {},
            "workloads": {},
            "bars": [],
        }
        show_about(console, about)
        for engine in engines:
            try:
                found = rig.engine(engine)
                about["engines"][engine] = {"version": found.version, "settings": found.settings}
            except Skipped as skipped:
                about["engines"][engine] = {"reason": str(skipped)}
                console.print(f"{engine}: {skipped}", highlight=False, markup=False)
        for name in names:
            workload = WORKLOADS[name]
            repeats = 1 if workload.is_once else given.repeats or REPEATS[scale]
            plan = Plan(rig, scale, tuple(engines), ExitStack())
            about["workloads"][name] = run_workload(workload, plan, repeats, progress.print)
            results = Results(about["workloads"])
            about["bars"] = [asdict(verdict) for verdict in judge(results)]
            show_workload(console, name, about["workloads"][name])
            if output is not None:
                _write(output, about)
        show_bars(console, Results(about["workloads"]), is_quick=given.quick)
    if given.quick:
        if QUICK.exists():
            show_moved(console, json.loads(QUICK.read_text()), about)
        if given.save:
            _write(QUICK, about)
    return 0


if __name__ == "__main__":
    sys.exit(main())
