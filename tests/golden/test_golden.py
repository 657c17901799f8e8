"""Every scenario of the golden file, played on Perdure and compared with what was recorded."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fix_server import Server
from golden.runner import Verdict, payload_limit, play_all
from golden.scenario import Scenario, load

pytestmark = pytest.mark.golden

SCENARIOS = load(
    Path(os.environ.get("PERDURE_GOLDEN") or Path(__file__).with_name("scenarios.json"))
)


@pytest.fixture(scope="session")
def verdicts(
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    count_statements: Callable[[psycopg.Connection[object]], None],
) -> dict[str, Verdict]:
    """All are played at once, by the first test process that wants one."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    found = folder / "golden.json"
    with (folder / "golden.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            played = _play(server, SCENARIOS, count_statements)
            found.write_text(json.dumps([dataclasses.asdict(verdict) for verdict in played]))
    read = [Verdict(**verdict) for verdict in json.loads(found.read_text())]
    return {verdict.id: verdict for verdict in read}


def _play(
    server: Server,
    scenarios: list[Scenario],
    count_statements: Callable[[psycopg.Connection[object]], None],
) -> list[Verdict]:
    groups: dict[int | None, list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault(payload_limit(scenario), []).append(scenario)
    played: list[Verdict] = []
    for group in groups.values():
        with server.database(server.template) as dsn:
            played += play_all(dsn, group)
            if server.is_profiled:
                with psycopg.connect(dsn, autocommit=True) as conn:
                    count_statements(conn)
    return played


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_scenario_ends_as_recorded(
    scenario: Scenario,
    verdicts: dict[str, Verdict],
    record_property: Callable[[str, object], None],
) -> None:
    verdict = verdicts[scenario.id]
    record_property("freedoms", verdict.freedoms)
    if verdict.skipped is not None:
        pytest.skip(verdict.skipped)
    assert not verdict.differences, "\n".join(verdict.differences)
