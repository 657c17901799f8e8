-- What was asked of watch_table, put in order: the same wish in other words is the same row.

create or replace function perdure._checked_watch(p_table text, p_watch perdure.watch)
returns perdure.watch
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  c_known constant text[] := array['insert', 'update', 'delete'];
  v perdure.watch := p_watch;
  v_relation oid;
  v_missing text;
begin
  if p_table is null
    or perdure._is_name(v.task) is not true
    or not coalesce(perdure._is_name(v.queue), true)
  then
    raise exception 'a watch has a table, and a task (and queue) of 1 to 255 characters'
      using errcode = 'QD020';
  end if;
  select t.schema_name, t.table_name
  into v.schema_name, v.table_name
  from perdure._table_named(p_table) as t;
  v_relation := perdure._table_oid(v.schema_name, v.table_name);
  if v_relation is null then
    raise exception 'there is no table %', format('%I.%I', v.schema_name, v.table_name)
      using errcode = 'QD017', hint = 'Without a schema it is looked for in public.';
  elsif v.schema_name = 'perdure' or v.schema_name = 'information_schema'
    or v.schema_name ~ '^pg_'
  then
    raise exception 'tables of the schema % cannot be watched', v.schema_name
      using errcode = 'QD026';
  elsif cardinality(v.operations) > 0 is not true or not v.operations <@ c_known then
    raise exception 'operations are some of insert, update, delete' using errcode = 'QD026';
  end if;
  v.operations := array(
    select o.name from unnest(c_known) as o (name) where o.name = any(v.operations)
  );
  if v.columns is not null then
    if cardinality(v.columns) = 0 or 'update' <> all(v.operations) then
      raise exception 'columns narrow updates: name some, and have update among the operations'
        using errcode = 'QD026';
    end if;
    v_missing := perdure._missing_column(v_relation, v.columns);
    if v_missing is not null then
      raise exception 'the table % has no column %', v_relation::regclass, v_missing
        using errcode = 'QD026';
    end if;
    v.columns := array(select distinct c.name from unnest(v.columns) as c (name) order by c.name);
  end if;
  if v.condition is not null then
    perform perdure._try_condition(v_relation, v.condition);
  end if;
  return v;
end
$$;

comment on function perdure._checked_watch(text, perdure.watch) is
'The watch with its table''s name, operations and columns in order. Raises QD017, QD020, QD026.';
