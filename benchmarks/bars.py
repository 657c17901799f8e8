"""The bars: which figure of a run is held against what, and whether it reaches that.

All are ratios within one run, or times and sizes. A figure that was not measured is no failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# gpahal/durable-execution 0.32 did about 270 executions of its mix a second on two cores of a
# machine on which this floor's forerunner, with narrower tables, did 46,000 no-ops a second.
REFERENCE_MIX = 270.0
REFERENCE_FLOOR = 46_000.0


@dataclass(frozen=True, slots=True)
class Results:
    """What a run has found so far, as it is written to a file."""

    workloads: Mapping[str, Any]

    def row(self, workload: str, engine: str, variant: str) -> Mapping[str, Any] | None:
        for row in self.workloads.get(workload, {}).get("rows", ()):
            if (row["engine"], row["variant"]) == (engine, variant) and row["repeats"]:
                found: Mapping[str, Any] = row
                return found
        return None

    def figure(
        self, workload: str, engine: str, variant: str, name: str = "per_second", of: str = "median"
    ) -> float | None:
        row = self.row(workload, engine, variant)
        return None if row is None else row[of].get(name)

    def ratio(
        self,
        workload: str,
        one: tuple[str, str],
        other: tuple[str, str],
        name: str = "per_second",
    ) -> float | None:
        """Of one (engine, variant) to the other; None unless both were measured."""
        upper, lower = (self.figure(workload, *row, name) for row in (one, other))
        return upper / lower if upper is not None and lower else None


@dataclass(frozen=True, slots=True)
class Bar:
    workload: str
    text: str
    figure: Callable[[Results], float | None]
    least: float | None = None
    most: float | None = None
    unit: str = "×"

    def is_reached(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def demand(self) -> str:
        if self.least is not None and self.least == self.most:
            return f"= {_number(self.least, self.unit)}"
        if self.least is not None:
            return f"≥ {_number(self.least, self.unit)}"
        assert self.most is not None
        return f"≤ {_number(self.most, self.unit)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    workload: str
    text: str
    demand: str
    figure: float | None
    shown: str
    is_reached: bool | None  # None: not measured


def judge(results: Results) -> list[Verdict]:
    verdicts = []
    for bar in BARS:
        value = bar.figure(results)
        verdicts.append(
            Verdict(
                workload=bar.workload,
                text=bar.text,
                demand=bar.demand(),
                figure=value,
                shown="not measured" if value is None else _number(value, bar.unit),
                is_reached=None if value is None else bar.is_reached(value),
            )
        )
    return verdicts


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 20 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def _share(workload: str, variant: str) -> Callable[[Results], float | None]:
    """Of the floor at the same variant."""
    return lambda results: results.ratio(workload, ("perdure", variant), ("floor", variant))


def _over(
    workload: str, variant: str, other: str, *, engine: str = "perdure", name: str = "per_second"
) -> Callable[[Results], float | None]:
    """Perdure's over another row's."""
    return lambda results: results.ratio(workload, ("perdure", variant), (engine, other), name)


def _own(
    workload: str, variant: str, name: str, of: str = "median"
) -> Callable[[Results], float | None]:
    return lambda results: results.figure(workload, "perdure", variant, name, of)


def _mix(*, is_scaled: bool) -> Callable[[Results], float | None]:
    def figure(results: Results) -> float | None:
        rate = results.figure("W6", "perdure", "mix")
        floor = results.figure("W6", "floor", "flat 20,000")
        if rate is None or floor is None:
            return None
        return rate / (REFERENCE_MIX * (floor / REFERENCE_FLOOR if is_scaled else 1.0))

    return figure


def _finalized(results: Results) -> float | None:
    """1 where each parent of each repeat was finalized once; else what is farthest from it."""
    rows = [
        row
        for row in results.workloads.get("W4", {}).get("rows", ())
        if row["engine"] == "perdure" and "finalized" in row["median"]
    ]
    seen = [row[of]["finalized"] for row in rows for of in ("min", "max")]
    return max(seen, key=lambda value: abs(value - 1.0), default=None)


def _of_the_best(results: Results) -> float | None:
    rates = {
        row["variant"]: row["median"]["per_second"]
        for row in results.workloads.get("W10", {}).get("rows", ())
        if row["engine"] == "perdure" and row["repeats"]
    }
    if "64 connections" not in rates or len(rates) < 2:
        return None
    return float(rates["64 connections"] / max(rates.values()))


def _within_a_row(workload: str, variant: str, one: str, other: str) -> Callable[..., float | None]:
    def figure(results: Results) -> float | None:
        row = results.row(workload, "perdure", variant)
        return row["median"][one] / row["median"][other] if row and row["median"][other] else None

    return figure


def _streamed(results: Results) -> float | None:
    few, many = (
        results.figure("memory", "perdure", f"client, {count} enqueued", "peak_rss_mb")
        for count in ("20,000", "1,000,000")
    )
    return many / few if many is not None and few else None


BARS: tuple[Bar, ...] = (
    Bar("W1", "bulk: of the floor", _share("W1", "bulk"), least=0.6),
    Bar("W1", "one by one: of the floor", _share("W1", "one"), least=0.9),
    *(
        Bar("W2", f"batch {batch}: of the floor", _share("W2", f"batch {batch}"), least=0.6)
        for batch in (1, 10, 100, 500)
    ),
    Bar(
        "W2",
        "batch 500: of Graphile Worker, 500 ahead, batched completion",
        _over("W2", "batch 500", "its settings", engine="graphile"),
        least=1.0,
    ),
    Bar(
        "W2",
        "batch 100: of PgQueuer at batch 100",
        _over("W2", "batch 100", "batch 100", engine="pgqueuer"),
        least=1.5,
    ),
    Bar(
        "W2",
        "batch 500: of PgQueuer at batch 500",
        _over("W2", "batch 500", "its settings", engine="pgqueuer"),
        least=1.5,
    ),
    Bar(
        "W2",
        "batch 100: of Procrastinate",
        _over("W2", "batch 100", "its settings", engine="procrastinate"),
        least=30.0,
    ),
    Bar("W2", "sync bodies: of async ones", _over("W2", "batch 100, sync", "batch 100"), least=0.4),
    Bar(
        "W2",
        "two processes: of one",
        _over("W2", "batch 100, 2 processes", "batch 100"),
        least=1.0,
    ),
    Bar(
        "W2",
        "log of a whole life, batch 100 (goal: 1,000)",
        _own("W2", "batch 100", "wal_all_in"),
        most=1_200,
        unit="B",
    ),
    Bar("W3", "commit to body, p50", _own("W3", "idle", "p50_ms"), most=1.5, unit="ms"),
    Bar("W3", "commit to body, p99", _own("W3", "idle", "p99_ms"), most=5.0, unit="ms"),
    Bar(
        "W4",
        "1 → 10,000: of a flat drain, per execution",
        _over("W4", "1 → 10,000 → finalize", "flat 10,000"),
        least=0.8,
    ),
    Bar(
        "W4",
        "100 → 50: of a flat drain, per execution",
        _over("W4", "100 → 50 → finalize", "flat 10,000"),
        least=0.8,
    ),
    Bar(
        "W4",
        "1 → 1,000, from the call to the end",
        _own("W4", "1 → 1,000 → finalize, from the call", "seconds"),
        most=0.1,
        unit="s",
    ),
    Bar(
        "W4",
        "1 → 100,000",
        _own("W4", "1 → 100,000 → finalize", "seconds"),
        most=6.0,
        unit="s",
    ),
    Bar("W4", "finalizes per parent", _finalized, least=1.0, most=1.0, unit=""),
    Bar(
        "W6",
        "of durable-execution's 270/s, scaled by the floor",
        _mix(is_scaled=True),
        least=25.0,
    ),
    Bar("W6", "of durable-execution's 270/s as they are", _mix(is_scaled=False), least=25.0),
    Bar(
        "W7",
        "10 M finished: of none",
        _over("W7", "10 M finished", "nothing finished"),
        least=0.95,
    ),
    Bar(
        "W7",
        "claims beside 10 M finished, p99: of none",
        _over("W7", "claims, 10 M finished", "claims, nothing finished", name="p99_ms"),
        most=1.2,
    ),
    Bar("W8", "1 M ready: of 10 k ready", _over("W8", "1 M ready", "10 k ready"), least=0.95),
    Bar(
        "W8",
        "1 M due tomorrow: of none",
        _over("W8", "1 M due tomorrow", "nothing else"),
        least=0.95,
    ),
    Bar(
        "W8",
        "1 M due tomorrow: idle claim, p50",
        _own("W8", "idle claims, 1 M due tomorrow", "p50_ms"),
        most=1.0,
        unit="ms",
    ),
    Bar(
        "W8",
        "100 k unknown in front: of none",
        _over("W8", "100 k unknown in front", "nothing else"),
        least=0.9,
    ),
    Bar("W9", "held snapshot: of none", _over("W9", "held snapshot", "no snapshot"), least=0.9),
    Bar("W10", "64 connections: of the best number", _of_the_best, least=0.8),
    Bar(
        "W11",
        "the last minute: of the first",
        _within_a_row("W11", "5 minutes", "last_minute", "first_minute"),
        least=0.9,
    ),
    Bar(
        "W11",
        "dead rows, second half: of the first",
        _within_a_row("W11", "5 minutes", "dead_second_half", "dead_first_half"),
        most=1.5,
    ),
    Bar(
        "memory",
        "worker with 1,000 bodies at once",
        _own("memory", "worker, 1,000 bodies at once", "peak_rss_mb", "max"),
        most=80,
        unit="MB",
    ),
    Bar("memory", "client that enqueues 1 M: of 20 k", _streamed, most=1.25),
)
