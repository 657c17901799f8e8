"""The golden runner itself: it sees wrong results, and takes other files of the format."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fix_server import Server
from golden.runner import Verdict, play_all
from golden.scenario import load

FILE = Path(__file__).with_name("scenarios.json")

Change = Callable[[dict[str, Any]], object]


def given(*ids: str) -> list[dict[str, Any]]:
    found = {scenario["id"]: scenario for scenario in json.loads(FILE.read_text())["scenarios"]}
    return [copy.deepcopy(found[id_]) for id_ in ids]


def play(server: Server, folder: Path, scenarios: list[dict[str, Any]]) -> list[Verdict]:
    path = folder / "scenarios.json"
    path.write_text(json.dumps({"formatVersion": 1, "scenarios": scenarios}))
    with server.database(server.template) as dsn:
        return play_all(dsn, load(path))


def node(path: str, **changes: Any) -> Change:
    return lambda scenario: scenario["expected"]["nodes"][path].update(changes)


def error(path: str, **changes: Any) -> Change:
    return lambda scenario: scenario["expected"]["nodes"][path]["error"].update(changes)


MUTATIONS: list[tuple[str, Change, str]] = [
    ("h001_task_ok", node("/", output={"x": 1}), "/ output"),
    ("h002_task_echo", node("/", output={"k": "é∑", "n": 1}), "/ output"),
    ("h006_task_retry_then_ok", node("/", runs=2), "/ runs"),
    ("h007_task_retry_on_last_attempt_ok", node("/", retryAttempts=3), "/ retryAttempts"),
    ("h005_task_throw_plain", error("/", message="plane"), "/ error"),
    ("h004_task_fail_nonretryable", error("/", isRetryable=True), "/ error"),
    ("h022_task_throw_not_found", error("/", errorType="generic"), "/ error"),
    ("h012_task_timeout", node("/", status="failed"), "/ status"),
    ("h033_validate_reject", error("/", message="Invalid input to task a: no"), "/ error"),
    ("h045_root_unregistered", lambda s: s["expected"].pop("enqueueError"), "enqueueError"),
    ("h048_parent_child_order", node("/1", index=2), "/1 index"),
    ("h049_parent_single_child", node("/", waitedForChildren=False), "/ waitedForChildren"),
    ("h058_parent_body_retried", lambda s: s["expected"].update(rootStatus="failed"), "rootStatus"),
    ("h060_parent_body_timeout", lambda s: s["expected"].update(neverCreated=[]), "never created"),
    ("h068_finfn_empty_ok", node("/", finalizeRuns=2), "/ finalizeRuns"),
    ("h078_fintask_empty_ok", node("/f", isFinalize=False), "/f isFinalize"),
    ("h084_fintask_retry_ok", node("/", waitedForFinalize=False), "/ waitedForFinalize"),
    ("h138_sleep_cancel_then_wake", lambda s: s["expected"]["actions"].reverse(), "actions"),
    ("h163_loop_iteration_retried", node("/it1", runs=2), "/ runs"),
    ("h161_loop_iteration_fails_first", error("/", message="it"), "/ error"),
    (
        "h205_cancel_step_of_sequence",
        error("/", message="Sequential task failed [parentTaskId=s] [index=0]: boom"),
        "/ error",
    ),
]


def test_wrong_results_are_seen(server: Server, tmp_path: Path) -> None:
    scenarios = given(*(id_ for id_, _, _ in MUTATIONS))
    for scenario, (_, change, _) in zip(scenarios, MUTATIONS, strict=True):
        change(scenario)
    verdicts = play(server, tmp_path, scenarios)
    seen = {v.id: v.differences[0].partition(":")[0] for v in verdicts if v.differences}
    assert seen == {id_: what for id_, _, what in MUTATIONS}


def test_other_names_in_another_order_end_alike(server: Server, tmp_path: Path) -> None:
    scenarios = given(
        "h051_parent_same_task_twice",
        "h073_finfn_fail_on_failed_child",
        "h097_finparent_child_fails_no_finalize",
        "h142_sleep_wake_wrong_task",
        "h151_sleep_sequence_step",
        "h169_loop_child",
        "h183_cancel_root_three_levels",
        "h187_cancel_child_finished",
        "h205_cancel_step_of_sequence",
        "h215_big_mixed",
        "r0023",
        "r0260",
    )
    random.Random(4).shuffle(scenarios)
    renamed = [_renamed(scenario, f"x{number}") for number, scenario in enumerate(scenarios)]
    verdicts = play(server, tmp_path, renamed)
    assert [verdict.id for verdict in verdicts] == [f"x{n}" for n in range(len(scenarios))]
    assert [verdict.differences for verdict in verdicts] == [[]] * len(scenarios)


def test_what_the_sample_lacks_is_played_too(server: Server) -> None:
    scenarios = load(FILE.with_name("predicted.json"))
    with server.database(server.template) as dsn:
        verdicts = play_all(dsn, scenarios)
    assert {v.id: v.differences for v in verdicts} == {s.id: [] for s in scenarios}


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.json"
    path.write_text('{"formatVersion": 2, "scenarios": []}')
    with pytest.raises(ValueError, match="format version 2"):
        load(path)


def _renamed(scenario: dict[str, Any], id_: str) -> dict[str, Any]:
    """The same scenario under other names of itself, its tasks, gates and sleepers."""
    text = json.dumps(scenario | {"id": id_}, ensure_ascii=False)
    names = set(re.findall(r'"name": "(\w+)"', text))
    for name in sorted(names, key=len, reverse=True):
        name_ = re.escape(name)
        text = re.sub(rf'("(?:name|ref|taskId|task)": ")({name_})"', rf'\1{name}_of_{id_}"', text)
        text = re.sub(rf'("wake", ")({name_})"', rf'\1{name}_of_{id_}"', text)
        text = re.sub(
            rf"((?:[tT]askId|parentTaskId|providedTaskId|sleepingTaskId)=)({name_})\]",
            rf"\1{name}_of_{id_}]",
            text,
        )
        text = re.sub(rf"((?:bad child|need all): )({name_}) ", rf"\1{name}_of_{id_} ", text)
    text = re.sub(r"\bu_(\w+)", rf"v_{id_}_\1", text)
    renamed: dict[str, Any] = json.loads(text)
    return renamed
