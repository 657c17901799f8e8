-- The problems that have their cause in the trigger, not in the table.

create or replace function perdure._is_mendable(p_problem text) returns boolean
language sql
immutable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select p_problem in ('missing', 'disabled', 'wrong function', 'wrong definition')
$$;

comment on function perdure._is_mendable(text) is
'True where making the trigger anew solves the problem; null for none.';
