"""Rule 8: no room is joined to a list, and what moves rows has its plans pinned (decision 0025).

What the statements really read is measured in tests/sql/plans.
"""

from __future__ import annotations

import pytest

from fix_engine import Engine

_MOVES = r"(delete from|update) perdure\.(ready|scheduled|running|waiting|closing)\M"
_JOINS = r"join perdure\.(ready|scheduled|running|waiting|finished|execution)\M"
# Called once for one id, by functions that pin; one statement by primary key each.
_BY_ID = {"_begin_finalize", "_next_step", "_end_parent"}
# What is called for every exchange leaves its plans to its callers' settings: to set them costs as
# much as a statement. It may only be called from where all of them are set.
_LEFT_TO_CALLERS = {
    "_both_candidates",
    "_candidates",
    "_child",
    "_children_finished",
    "_claim",
    "_decrement",
    "_record",
    "_reported",
}
_PINS = {
    "enable_seqscan=off",
    "enable_bitmapscan=off",
    "enable_hashjoin=off",
    "enable_mergejoin=off",
    "jit=off",
    "plan_cache_mode=force_generic_plan",
}


def _matching(engine: Engine, pattern: str, but: str) -> set[str]:
    found = engine.query(
        "select p.proname as name from pg_proc as p"
        " where p.pronamespace = 'perdure'::regnamespace and p.prosrc ~ %s"
        f" and {but}",
        pattern,
    )
    return {row["name"] for row in found}


def test_what_moves_rows_pins_its_plans(engine: Engine) -> None:
    unpinned = "not coalesce('enable_seqscan=off' = any(p.proconfig), false)"
    assert _matching(engine, _MOVES, unpinned) - _BY_ID <= _LEFT_TO_CALLERS


@pytest.mark.parametrize("name", sorted(_LEFT_TO_CALLERS))
def test_plans_left_to_callers_are_pinned_by_every_caller(engine: Engine, name: str) -> None:
    callers = engine.query(
        "select p.proname as name, coalesce(p.proconfig, '{}') as settings from pg_proc as p"
        " where p.pronamespace = 'perdure'::regnamespace and p.proname <> %s"
        " and p.prosrc ~ ('\\mperdure\\.' || %s || '\\(')",
        name,
        name,
    )
    assert callers
    for caller in callers:
        assert caller["name"] in _LEFT_TO_CALLERS or set(caller["settings"]) >= _PINS, caller


def test_nothing_but_fsck_and_the_views_joins_rooms(engine: Engine) -> None:
    assert _matching(engine, _JOINS, "true") <= {"fsck"}
