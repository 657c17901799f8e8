"""The benchmark measures, judges and compares; no test here cares how fast anything is."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import bench
import report
from bars import BARS, REFERENCE_FLOOR, REFERENCE_MIX, Bar, Results, judge
from rig import OWN, Failed, Rig, Skipped
from workloads import WORKLOADS, Case, Plan, Scale, Workload

BENCHMARKS = Path(bench.__file__).parent


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("bench")) as rig:
        yield rig


def run(rig: Rig, name: str) -> dict[str, Any]:
    return measured(name, Plan(rig, Scale.QUICK, OWN, ExitStack(), 100))


def run_all_of_it(rig: Rig, name: str) -> dict[str, Any]:
    return measured(name, Plan(rig, Scale.NORMAL, ("perdure",), ExitStack(), 1_000))


def measured(name: str, plan: Plan) -> dict[str, Any]:
    found = bench.run_workload(WORKLOADS[name], plan, 1, lambda text: None)
    assert found["reason"] is None
    for row in found["rows"]:
        assert row["reason"] is None, row
    return found


def median(found: dict[str, Any], engine: str, variant: str) -> dict[str, float]:
    row = Results({"W": found}).row("W", engine, variant)
    assert row
    return dict(row["median"])


# Measuring


def test_the_server_is_durable(rig: Rig) -> None:
    settings = rig.settings()
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert settings[name] == "on"
    assert rig.hardware()["fdatasync_us"] > 0


def test_a_small_drain_gives_every_figure(rig: Rig) -> None:
    found = run(rig, "W2")
    for engine in OWN:
        figures = median(found, engine, "batch 100")
        assert figures["executions"] == 100
        for name in ("per_second", "seconds", "commits", "wal_bytes", "wal_all_in"):
            assert figures[name] > 0, name
        assert {"server_us", "client_us", "others", "peak_rss_mb"} <= figures.keys()
        assert figures["wal_all_in"] > figures["wal_bytes"] + 100
        if rig.has_statements:
            assert 1 / 100 <= figures["statements"] < 0.5
    assert [row["of_floor"] for row in found["rows"] if row["engine"] == "floor"] == [1.0]


def test_enqueueing_one_by_one_commits_each(rig: Rig) -> None:
    found = run(rig, "W1")
    for engine in OWN:
        assert 1.0 <= median(found, engine, "one")["commits"] < 2.5
        assert median(found, engine, "bulk")["commits"] < 0.1


def test_latency_is_from_commit_to_body(rig: Rig) -> None:
    found = run(rig, "W3")
    for engine in OWN:
        figures = median(found, engine, "idle")
        assert figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
        assert figures["p50_ms"] < figures["call_p50_ms"]


def test_a_tree_is_finalized_once(rig: Rig) -> None:
    found = run(rig, "W4")
    figures = median(found, "perdure", "1 → 1,000 → finalize, from the call")
    assert figures["finalized"] == 1.0
    assert figures["executions"] == 10 + 2


@pytest.mark.parametrize("name", ["W6", "W8", "W9", "W12"])
def test_it_runs_small(rig: Rig, name: str) -> None:
    run_all_of_it(rig, name)


def test_history_is_there(rig: Rig) -> None:
    found = run_all_of_it(rig, "W7")
    rows = {(row["engine"], row["variant"]) for row in found["rows"]}
    assert {("perdure", "10 M finished"), ("perdure", "claims, 10 M finished")} <= rows


# Workloads


def test_every_workload_is_there() -> None:
    assert [f"W{number}" for number in range(1, 13)] == [*WORKLOADS][:12]
    assert {bar.workload for bar in BARS} <= WORKLOADS.keys()


def test_every_bar_names_a_row_that_is_measured(rig: Rig) -> None:
    """Each is found where all figures are there; W8 and others are not run for it, only named."""
    rows: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        with ExitStack() as stack:
            engines = (*OWN, "procrastinate", "pgqueuer", "graphile")
            cases = workload.cases(Plan(rig, Scale.NORMAL, engines, stack, 100_000))
            rows[name] = {
                "rows": [bench._row(case, [dict.fromkeys(_FIGURES, 1.0)], None) for case in cases]
            }
    unmeasured = [verdict.text for verdict in judge(Results(rows)) if verdict.figure is None]
    assert unmeasured == []


_FIGURES = (
    *("per_second", "seconds", "p50_ms", "p99_ms", "wal_all_in", "finalized", "peak_rss_mb"),
    *("first_minute", "last_minute", "dead_first_half", "dead_second_half"),
)


def test_cases_are_run_in_turn_and_what_ails_one_stays_in_its_row(rig: Rig) -> None:
    done: list[str] = []

    def absent() -> dict[str, float]:
        raise Skipped("absent: it is not there")

    def failing() -> dict[str, float]:
        done.append("failing")
        if len(done) > 3:
            raise Failed("it fell over\nat length")
        return {"per_second": 1.0}

    def fine() -> dict[str, float]:
        done.append("fine")
        return {"per_second": float(len(done))}

    def cases(plan: Plan) -> list[Case]:
        return [Case("a", "", failing), Case("b", "", absent), Case("floor", "x", fine, "x")]

    plan = Plan(rig, Scale.QUICK, OWN, ExitStack())
    found = bench.run_workload(Workload("W", "a test", cases), plan, 3, lambda text: None)
    assert done == ["failing", "fine", "failing", "fine", "failing", "fine"][: len(done)]
    failed, away, good = found["rows"]
    assert failed["reason"] == "failed: it fell over"
    assert len(failed["repeats"]) == 2
    assert away["reason"] == "absent: it is not there"
    assert away["repeats"] == []
    assert (good["median"], good["min"], good["max"]) == (
        {"per_second": 4.0},
        {"per_second": 2.0},
        {"per_second": 6.0},
    )
    shown = io.StringIO()
    bench.show_workload(Console(file=shown, width=120), "W", found)
    assert "b, : absent: it is not there" in shown.getvalue()
    assert "4 (2–6)" in shown.getvalue()


# Bars


def results(**rows: float) -> Results:
    """Rates by `engine variant`, of W2."""
    named = [(name.split(" ", 1), rate) for name, rate in rows.items()]
    workload = {
        "rows": [
            bench._row(Case(engine, variant, dict), [{"per_second": rate}], None)
            for (engine, variant), rate in named
        ]
    }
    return Results({"W2": workload})


def verdict(found: Results, text: str) -> bool | None:
    (one,) = (verdict for verdict in judge(found) if verdict.text == text)
    return one.is_reached


@pytest.mark.parametrize(("rate", "is_reached"), [(60.0, True), (59.9, False)])
def test_a_ratio_has_to_be_at_least_the_bar(rate: float, is_reached: bool) -> None:
    found = results(**{"perdure batch 100": rate, "floor batch 100": 100.0})
    assert verdict(found, "batch 100: of the floor") is is_reached


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    found = results(**{"perdure batch 100": 1.0})
    assert verdict(found, "batch 100: of the floor") is None
    assert all(one.shown == "not measured" for one in judge(Results({})))


@pytest.mark.parametrize(
    ("least", "most", "value", "is_reached", "demand"),
    [
        (None, 5.0, 5.0, True, "≤ 5.00 ms"),
        (None, 5.0, 5.1, False, "≤ 5.00 ms"),
        (0.9, None, 0.9, True, "≥ 0.90 ms"),
        (1.0, 1.0, 1.0, True, "= 1.00 ms"),
        (1.0, 1.0, 2.0, False, "= 1.00 ms"),
        (1.0, 1.0, 0.5, False, "= 1.00 ms"),
    ],
)
def test_a_bar_has_a_least_or_a_most(
    least: float | None, most: float | None, value: float, is_reached: bool, demand: str
) -> None:
    bar = Bar("W", "text", lambda found: None, least=least, most=most, unit="ms")
    assert bar.is_reached(value) is is_reached
    assert bar.demand() == demand


def test_the_reference_is_scaled_by_the_floor() -> None:
    def rows(perdure: float, floor: float) -> Results:
        cases = [Case("perdure", "mix", dict), Case("floor", "flat 20,000", dict)]
        rates = zip(cases, (perdure, floor), strict=True)
        return Results(
            {"W6": {"rows": [bench._row(case, [{"per_second": r}], None) for case, r in rates]}}
        )

    figures = {
        verdict.text: verdict.figure
        for verdict in judge(rows(25 * REFERENCE_MIX, REFERENCE_FLOOR / 2))
        if verdict.workload == "W6"
    }
    assert sorted(figure or 0.0 for figure in figures.values()) == [25.0, 50.0]


# Comparing


def _quick(cpu: str = "this one", **figures: float) -> dict[str, Any]:
    row = bench._row(Case("perdure", "batch 100", dict), [dict(figures)], None)
    return {
        "at": "yesterday",
        "hardware": {"cpu": cpu, "cores": 2, "postgresql": "15.18"},
        "workloads": {"W2": {"rows": [row]}},
    }


def test_a_comparison_names_what_moved_by_more_than_a_tenth() -> None:
    before = _quick(per_second=1000.0, statements=0.010, wal_bytes=1000.0)
    after = _quick(per_second=1200.0, statements=0.0105, wal_bytes=1150.0)
    assert list(bench.moved(before, after)) == [
        ("W2 perdure, batch 100", "per second", "1,000", "1,200", "+20%", "better"),
        ("W2 perdure, batch 100", "log B", "1,000", "1,150", "+15%", "worse"),
    ]


@pytest.mark.parametrize(
    ("cpu", "told"), [("this one", r"\+20%"), ("another", r"another machine \(cpu\)")]
)
def test_times_of_another_machine_are_not_compared(cpu: str, told: str) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    bench.show_moved(console, _quick(cpu, per_second=1000.0), _quick(per_second=1200.0))
    assert re.search(told, shown.getvalue())
    assert ("+20%" in shown.getvalue()) == (cpu == "this one")


def test_nothing_moved() -> None:
    shown = io.StringIO()
    same = _quick(per_second=1000.0)
    bench.show_moved(Console(file=shown, width=200), same, same)
    assert "Nothing moved by more than 10%" in shown.getvalue()


@pytest.mark.parametrize("name", ["perdure", "floor"])
def test_an_engine_of_our_own_has_a_program(name: str) -> None:
    assert (BENCHMARKS / "engines" / f"{name}_engine.py").exists()


# The page


def test_the_page_has_every_figure_and_says_what_is_missing() -> None:
    about = _quick(per_second=1200.0, statements=0.01)
    about |= {"settings": {"fsync": "on"}, "commit": "abc", "load": 0.0}
    about["engines"] = {
        "perdure": {"version": "1", "settings": {"batch": 100}},
        "oban": {"reason": "absent: it is not there"},
    }
    absent = bench._row(Case("oban", "a | b", dict), [], "absent: it is not there")
    found = about["workloads"]["W2"]
    found |= {"title": "drain", "seconds": 3.0, "rows": [*found["rows"], absent]}
    page = "\n".join(report.lines(about))
    assert "\n| perdure | batch 100 | 1,200 | 0.010 |  |\n" in page
    assert "\n- oban, a | b: absent: it is not there\n" in page
    assert "- hardware: cpu this one, cores 2, postgresql 15.18" in page
    assert page.count("not measured | not measured") == len(BARS)
