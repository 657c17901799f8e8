"""Rule 15: nothing stands in the way of partitions by id."""

from __future__ import annotations

from fix_engine import Engine


def test_the_two_large_tables_have_no_unique_constraint_but_the_id(engine: Engine) -> None:
    unique = """
      select c.relname as name, array_agg(a.attname::text order by a.attnum) as columns
      from pg_index as i
      join pg_class as c on c.oid = i.indrelid
      join pg_attribute as a on a.attrelid = c.oid and a.attnum = any(i.indkey)
      where i.indisunique and c.oid in ('perdure.execution'::regclass, 'perdure.finished'::regclass)
      group by c.relname, i.indexrelid
      order by 1
    """
    assert engine.query(unique) == [
        {"name": "execution", "columns": ["id"]},
        {"name": "finished", "columns": ["id"]},
    ]


def test_no_table_has_a_foreign_key_or_a_trigger(engine: Engine) -> None:
    counts = """
      select (select count(*) from pg_constraint as c
        where c.connamespace = 'perdure'::regnamespace and c.contype = 'f')
      + (select count(*) from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
        where c.relnamespace = 'perdure'::regnamespace)
    """
    assert engine.one(counts) == 0
