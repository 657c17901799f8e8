-- The columns of a watch are those that its table had; it may have lost one since.

create or replace function perdure._missing_column(p_relation oid, p_columns text[]) returns text
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select coalesce(c.name, 'null')
  from unnest(p_columns) as c (name)
  where not exists (
    select from pg_attribute as a
    where a.attrelid = p_relation and a.attname = c.name and a.attnum > 0 and not a.attisdropped
  )
  limit 1
$$;

comment on function perdure._missing_column(oid, text[]) is
'One of the columns that the table does not have; null where it has all.';
