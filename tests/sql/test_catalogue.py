"""What the catalogue and the sources say of codes, names, comments and settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fix_engine import Engine
from perdure import errors

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "sql").glob("*/*.sql"))
}
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text()

# Codes that only the Python client raises.
OF_THE_CLIENT = {"QD030", "QD031", "QD032", "QD033"}

_DEFINES = re.compile(r"create or replace (?:function|procedure)")
OURS = "p.pronamespace = 'perdure'::regnamespace"


def documented() -> dict[str, str]:
    return dict(re.findall(r"^\| (QD\d{3}) \| (\w+) \|", ERRORS, re.MULTILINE))


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_every_raise_has_a_code_of_class_qd() -> None:
    for path, text in SOURCES.items():
        for statement in re.findall(r"raise exception.*?;", text, re.DOTALL):
            code = re.search(r"errcode = ('QD\d{3}'|'serialization_failure'|v\w*\.code)", statement)
            assert code, f"{path}: {statement}"


def test_the_codes_of_the_sources_are_those_of_the_table() -> None:
    used = {code for text in SOURCES.values() for code in re.findall(r"'(QD\d{3})'", text)}
    assert used | OF_THE_CLIENT == set(documented())
    assert not used & OF_THE_CLIENT


def test_the_client_s_classes_are_those_of_the_table() -> None:
    classes = {code: kind.__name__ for code, kind in errors.by_sqlstate().items()}
    assert classes == {code: camel(name) for code, name in documented().items()}


def test_every_code_that_a_comment_mentions_exists(engine: Engine) -> None:
    comments = engine.query(
        f"select obj_description(p.oid, 'pg_proc') as text from pg_proc as p where {OURS}"
    )
    mentioned = {code for row in comments for code in re.findall(r"QD\d{3}", row["text"])}
    assert mentioned <= set(documented())


def test_the_engine_s_own_error_types_are_in_the_table() -> None:
    documented_types = set(re.findall(r"^\| (\w+) \| \w+(?:, \w+)? \|", ERRORS, re.MULTILINE))
    stored = {
        kind
        for path, text in SOURCES.items()
        if "/30_transitions/" in path
        for kind in re.findall(r"'type', '(\w+)'", text)
    }
    assert stored <= documented_types


# Functions that have no search_path of their own: one expression each, inlined into callers that
# have one, naming no table (or, version(), bound when it was created).
UNPINNED = {
    "_clock": "the clock of test installs reads a row, by its qualified name",
    "_delay_ms": None,
    "_exceeds": None,
    "_extra": None,
    "_hash": None,
    "_is_name": None,
    "_interval_ms": None,
    "_milliseconds": None,
    "_moment": None,
    "_names_a_lease": None,
    "_notify": None,
    "_notify_ready": None,
    "_retry_delay_ms": None,
    "_shard_score": None,
    "version": None,
}


def test_few_functions_pin_no_search_path_and_they_name_no_table(engine: Engine) -> None:
    found = engine.query(
        f"""
        select p.proname as name, l.lanname as language, p.prosecdef as is_definer
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang
        where {OURS} and p.prokind = 'f'
          and not coalesce(
            p.proconfig @> array['search_path=pg_catalog, perdure, pg_temp'], false
          )
        """
    )
    assert {row["name"] for row in found} <= set(UNPINNED)
    for row in found:
        assert (row["language"], row["is_definer"]) == ("sql", False), row["name"]
        (text,) = (text for path, text in SOURCES.items() if path.endswith(f"/{row['name']}.sql"))
        assert not re.search(r"\b(from|join|into|update) perdure\.", text), row["name"]


def test_types_and_columns_that_people_meet_are_described(engine: Engine) -> None:
    assert not engine.query(
        """
        select t.typname
        from pg_type as t
        join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'perdure'::regnamespace and obj_description(t.oid, 'pg_type') is null
        """
    )


def test_each_function_has_a_file_and_each_file_its_function(engine: Engine) -> None:
    functions = {
        row["name"]
        for row in engine.query(f"select proname as name from pg_proc as p where {OURS}")
    }
    files = {
        Path(path).name.split(".")[0] for path, text in SOURCES.items() if _DEFINES.search(text)
    }
    assert functions == files
    for path, text in SOURCES.items():
        assert len(_DEFINES.findall(text)) <= 1, path


def test_procedures_name_everything_in_full(engine: Engine) -> None:
    """They commit, and one that has a search_path of its own, or its owner's rights, may not."""
    procedures = engine.query(
        f"""
        select p.proname as name, p.prosrc as text, p.prosecdef or p.proconfig is not null as is_set
        from pg_proc as p where {OURS} and p.prokind = 'p'
        """
    )
    assert [row["name"] for row in procedures] == ["sweep_for"]
    for row in procedures:
        assert not row["is_set"], row["name"]
        assert "commit;" in row["text"]
        called = re.findall(r"([\w.]+)\(", re.sub(r"--.*|'[^']*'", "", row["text"]))
        ours = [name for name in called if name not in ("extract", "least", "if", "when")]
        assert ours
        assert all(name.startswith(("perdure.", "pg_catalog.")) for name in ours), ours


def test_there_are_no_overloads(engine: Engine) -> None:
    assert not engine.query(
        f"select proname from pg_proc as p where {OURS} group by 1 having count(*) > 1"
    )


def test_arguments_of_public_functions_are_plain_and_of_internal_ones_have_a_prefix(
    engine: Engine,
) -> None:
    rows = engine.query(
        f"""
        select p.proname as name, a.argument
        from pg_proc as p
        cross join lateral unnest(p.proargnames[1:p.pronargs]) as a (argument)
        where {OURS}
        """
    )
    assert len(rows) > 100
    for row in rows:
        is_internal = row["name"].startswith("_")
        # `p`: the item that _checked_options() passes on
        has_prefix = row["argument"].startswith("p_") or row["argument"] == "p"
        assert is_internal == has_prefix, row


def test_volatility_is_said_by_every_function() -> None:
    for path, text in SOURCES.items():
        if "create or replace function" in text:
            assert re.search(r"^(volatile|stable|immutable)$", text, re.MULTILINE), path


def test_constraints_have_names_that_are_sentences(engine: Engine) -> None:
    rows = engine.query(
        """
        select c.conname as name, c.conrelid::regclass::text as relation
        from pg_constraint as c
        where c.connamespace = 'perdure'::regnamespace and c.contype = 'c'
          and c.conrelid <> to_regclass('perdure.test_clock')
        """
    )
    assert rows
    for row in rows:
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+){2,}", row["name"]), row
        assert not row["name"].endswith("_check"), row


@pytest.mark.parametrize("room", ["ready", "scheduled", "running", "waiting"])
def test_rooms_are_never_truncated_by_vacuum_and_have_no_trigger(engine: Engine, room: str) -> None:
    (row,) = engine.query(
        "select reloptions, relhastriggers from pg_class where oid = %s::regclass",
        f"perdure.{room}",
    )
    assert "vacuum_truncate=off" in row["reloptions"]
    assert not row["relhastriggers"]
