"""The state diagram of sql/README.md, the file names, their headers and the checks agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fix_engine import Engine

SQL = Path(__file__).resolve().parents[2] / "sql"
FILES = sorted((SQL / "30_transitions").glob("*.sql"))
README = (SQL / "README.md").read_text()
DIAGRAM = README.split("```mermaid\n")[1].split("```")[0]

ENDED = {"completed", "failed", "timed_out", "finalize_failed", "cancelled"}
PARKED = {"sleeping", "waiting_for_children", "waiting_for_finalize"}
LIVE = {"scheduled", "ready", "running"} | PARKED

# A word in a file's name → the places in the diagram that it stands for.
PLACES = {
    "new": {"[*]"},
    "gone": {"[*]"},
    "waiting": PARKED,
    "finished": ENDED | {"ended"},
    # due at once, or later; a sleeper that is redriven sleeps
    "ready": {"ready", "scheduled", "sleeping"},
    "any": LIVE | ENDED | {"live"},
    **{name: {name} for name in (*ENDED, "scheduled", "running", "sleeping", "closing")},
}

# Sources are exact: what leaves the room `ready` leaves it and no other.
SOURCES = PLACES | {"ready": {"ready"}}


def arrows() -> list[tuple[str, str, list[str]]]:
    found = re.findall(r"^ *(\S+) --> (\S+): (.+)$", DIAGRAM, re.MULTILINE)
    return [(start, end, functions.split(", ")) for start, end, functions in found]


def edges() -> dict[str, tuple[str, str]]:
    found = {}
    for path in FILES:
        if match := re.fullmatch(r"(\w+)\.(\w+)-(\w+)\.sql", path.name):
            function, start, end = match.groups()
            assert function not in found, f"{function} has two files"
            found[function] = start, end
    return found


def members(state: str) -> set[str]:
    """The states inside a composite one."""
    body = re.search(rf"state {state} {{(.*?)\n  }}", DIAGRAM, re.DOTALL)
    assert body
    return set(re.findall(r"\b[a-z_]+\b", re.sub(r":.*", "", body[1])))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
def test_a_file_begins_with_its_name(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("-- ")
    if match := re.fullmatch(r"(\w+)\.(\w+)-(\w+)\.sql", path.name):
        assert first == "-- {}: {} -> {}".format(*match.groups())
    else:
        assert "->" not in first, "an edge stands in the file's name"


def test_every_word_in_a_file_name_is_known() -> None:
    assert {word for edge in edges().values() for word in edge} <= set(PLACES)


def test_every_internal_edge_is_named_beside_the_public_ones_that_go_through_it() -> None:
    table = README.split("The moving is done by internal functions")[1].split("## ")[0]
    internal = {function for function in edges() if function.startswith("_")}
    helpers = {path.stem for path in FILES if path.stem.startswith("_")}
    assert internal <= set(re.findall(r"`(_\w+)`", table)) <= internal | helpers


@pytest.mark.parametrize("function", [name for name in edges() if not name.startswith("_")])
def test_every_public_edge_has_its_arrow(function: str) -> None:
    start, end = edges()[function]
    mine = [(a, b) for a, b, functions in arrows() if function in functions]
    assert mine, f"{function} is on no arrow"
    for a, b in mine:
        assert a in SOURCES[start], f"{a} --> {b}: {function} comes from {start}"
        assert b in PLACES[end], f"{a} --> {b}: {function} leads to {end}"


def test_every_name_on_an_arrow_is_an_edge_and_every_arrow_has_a_public_one() -> None:
    for start, end, functions in arrows():
        assert set(functions) <= set(edges()), (start, end)
        assert len(functions) == len(set(functions)), (start, end)
        is_public = any(not function.startswith("_") for function in functions)
        # moved by claims and sweeps
        assert is_public or (start, end) == ("scheduled", "ready")


def test_the_states_of_the_diagram_are_those_of_the_tables(engine: Engine) -> None:
    checks = {
        row["name"]: set(re.findall(r"'(\w+)'::text", row["definition"]))
        for row in engine.query(
            """
            select c.conname as name, pg_get_constraintdef(c.oid) as definition
            from pg_constraint as c
            where c.conname in ('end_status_is_known', 'phase_is_known', 'attempt_status_is_known')
            """
        )
    }
    assert members("ended") == checks["end_status_is_known"] == ENDED
    assert checks["attempt_status_is_known"] == ENDED | {"crashed"}
    phases = {
        "sleep": "sleeping",
        "children": "waiting_for_children",
        "steps": "waiting_for_children",
        "finalize": "waiting_for_finalize",
    }
    assert checks["phase_is_known"] == set(phases)
    assert members("live") == {"scheduled", "ready", "running"} | set(phases.values())


def test_the_view_shows_the_statuses_of_the_diagram() -> None:
    view = (SQL / "60_views" / "executions.sql").read_text()
    query = view.split("comment on view")[0]
    shown = set(re.findall(r"(?:\.id,|then|else)\s+'(\w+)'", query))
    assert shown == LIVE - {"scheduled"}
    assert re.search(r"\bf\.id, f\.status,", query), "of ended executions: their own"


def test_the_essay_is_short() -> None:
    essay = README.split("## A life\n")[1].split("## ")[0]
    assert len(essay.splitlines()) <= 60


def test_the_load_order_names_every_folder() -> None:
    table = README.split("## Load order")[1].split("## ")[0]
    folders = {path.name for path in SQL.iterdir() if path.is_dir()}
    assert set(re.findall(r"`(\d\d_\w+)`", table)) == folders
