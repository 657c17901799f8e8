"""A function that pins its plans has no JIT either (docs/decisions/0003)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg


def test_whatever_pins_a_plan_turns_jit_off(conn: psycopg.Connection) -> None:
    pinned_with_jit = conn.execute(
        """
        select p.oid::regprocedure::text
        from pg_proc as p
        where p.pronamespace = 'perdure'::regnamespace
          and p.proconfig::text like '%enable_%'
          and not 'jit=off' = any(p.proconfig)
        """
    ).fetchall()
    assert pinned_with_jit == []
