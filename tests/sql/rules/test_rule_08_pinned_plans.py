"""Rule 8: no room is joined to a list, and every function that moves rows pins its own plans.

What the statements really read is measured in tests/sql/plans.
"""

from __future__ import annotations

from fix_engine import Engine

_MOVES = r"(delete from|update) perdure\.(ready|scheduled|running|waiting|closing)\M"
_JOINS = r"join perdure\.(ready|scheduled|running|waiting|finished|execution)\M"
# Called once for one id, by functions that pin; one statement by primary key each.
_BY_ID = {"_begin_finalize", "_next_step", "_end_parent"}


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
    assert _matching(engine, _MOVES, unpinned) - _BY_ID == set()


def test_nothing_but_fsck_and_the_views_joins_rooms(engine: Engine) -> None:
    assert _matching(engine, _JOINS, "true") <= {"fsck"}
