-- Planned, not run, and as a cursor: which takes one statement only.

create or replace function perdure._try_condition(p_relation oid, p_condition text) returns void
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_try refcursor;
begin
  open v_try for execute format(
    'select from (select (null::%1$s).*) as new, (select (null::%1$s).*) as old where (%2$s%3$s)',
    p_relation::regclass, p_condition, E'\n'  -- which ends a comment
  );
  close v_try;
exception
  when others then
    raise exception 'the condition cannot be used: %', sqlerrm
      using errcode = 'QD026',
        hint = 'It is a boolean expression over new and old; other names need their schema.';
end
$$;

comment on function perdure._try_condition(oid, text) is
'Raises QD026 unless the condition can be planned over rows of the table.';
