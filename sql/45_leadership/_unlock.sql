-- Session locks stack: one unlock for each time they were taken. The bound is never met.

create or replace function perdure._unlock(p_key int) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_namespace int := (select c.lock_namespace from perdure.config as c);
begin
  for v_turn in 1 .. 1000 loop
    exit when p_key <> all(perdure._locked_keys(pg_backend_pid()));  -- else a warning
    perform pg_advisory_unlock(v_namespace, p_key);
  end loop;
end
$$;

comment on function perdure._unlock(int) is
'Gives back a session lock of this backend, however often it was taken.';
