"""The tables of results/latest.json as a page of the docs: part of `make bench-plot`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bars import Results, judge
from bench import COLUMNS, LATEST, cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"

HEAD = """# Benchmark results
Written by `make bench-plot` from `benchmarks/results/latest.json`. What is measured, and how:
[Performance](performance.md). Medians; least and most in brackets. Statements, commits, bytes of
WAL and µs of CPU are per execution; "others" is how many cores something else kept busy.
"""


def lines(about: dict[str, Any]) -> Iterator[str]:
    """The page."""
    yield HEAD
    for part in ("hardware", "settings"):
        pairs = ", ".join(f"{name} {value}" for name, value in about[part].items())
        yield f"- {part}: {pairs}"
    yield f"- at {about['at']}, commit {about['commit']}, load before {about['load']:.1f}"
    for engine, found in about["engines"].items():
        if "reason" in found:
            yield f"- {engine}: {found['reason']}"
        else:
            settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
            yield f"- {engine} {found['version']}: {settings}"
    yield "\n## The bars"
    yield from _table(
        ("", "what", "bar", "figure", ""),
        (
            (bar.workload, bar.text, bar.demand, bar.shown, _mark(bar.is_reached))
            for bar in judge(Results(about["workloads"]))
        ),
    )
    for name, found in about["workloads"].items():
        yield f"\n## {name}: {found['title']}"
        rows = [row for row in found["rows"] if row["repeats"]]
        shown = [column for column in COLUMNS if any(column in row["median"] for row in rows)]
        yield from _table(
            ("engine", "", *(COLUMNS[column][0] for column in shown), "of the floor"),
            (
                (
                    *(row["engine"], row["variant"], *(cell(row, column) for column in shown)),
                    f"{row['of_floor']:.2f}" if "of_floor" in row else "",
                )
                for row in rows
            ),
        )
        yield ""
        yield from (
            f"- {row['engine']}, {row['variant']}: {row['reason']}"
            for row in found["rows"]
            if row["reason"]
        )
        yield f"- took {found['seconds']:.0f} s"


def _mark(is_reached: bool | None) -> str:
    return {True: "reached", False: "**missed**", None: "not measured"}[is_reached]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (heading, ["---"] * len(heading), *rows):
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=LATEST)
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    if not given.results.exists():
        sys.exit(f"{given.results} is not there: `make bench` writes it")
    given.page.write_text("\n".join(lines(json.loads(given.results.read_text()))) + "\n")
    print(given.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
