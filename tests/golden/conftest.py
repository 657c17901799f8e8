"""Says after a run which of the allowed differences were used, and how often."""

from __future__ import annotations

from collections import Counter

import pytest

from fix_app import app as app
from golden.freedoms import REASONS, Freedom


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    used: Counter[Freedom] = Counter()
    scenarios: Counter[Freedom] = Counter()
    for kind in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(kind, []):
            for name, value in getattr(report, "user_properties", ()):
                if name == "freedoms":
                    found = {Freedom(int(number)): times for number, times in value.items()}
                    used.update(found)
                    scenarios.update(found.keys())
    if not used:
        return
    terminalreporter.section("freedoms used by the golden scenarios")
    for freedom in sorted(used):
        times = f"{used[freedom]:4d} times in {scenarios[freedom]:3d} scenarios"
        terminalreporter.write_line(f"{freedom:2d}  {times}  {REASONS[freedom]}")
