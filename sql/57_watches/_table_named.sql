-- A table's name as people write it, read as SQL reads it: lower case unless quoted, cut at 63
-- bytes. The functions pin their search_path, so the caller's cannot say where a table is.

create or replace function perdure._table_named(
  p_table text, out schema_name text, out table_name text
)
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_parts name[];
begin
  v_parts := parse_ident(p_table);
  if cardinality(v_parts) > 2 then
    raise invalid_parameter_value;
  end if;
  schema_name := case cardinality(v_parts) when 1 then 'public' else v_parts[1] end;
  table_name := v_parts[cardinality(v_parts)];
exception
  when invalid_parameter_value then
    raise exception 'not a table''s name: %', left(p_table, 80)
      using errcode = 'QD020', hint = 'Write it as in SQL: orders, public.orders, app."Orders".';
end
$$;

comment on function perdure._table_named(text) is
'Schema (public unless given) and table of a name; nulls for null. Raises QD020.';
