-- By way of the catalogue: a cast to regclass would demand rights on the schema.

create or replace function perdure._table_oid(p_schema text, p_table text) returns oid
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select c.oid
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where n.nspname = p_schema and c.relname = p_table
    and c.relkind in ('r', 'p') and c.relpersistence <> 't'
$$;

comment on function perdure._table_oid(text, text) is
'The ordinary or partitioned table of this name, null where there is none.';
