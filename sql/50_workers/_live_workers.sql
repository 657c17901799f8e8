-- Who lives: by its session's lock, or by its lease.

create or replace function perdure._live_workers() returns int[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  return perdure._locked_keys() || array(
    select l.worker_id from perdure.worker_lease as l where l.expires_at > perdure._clock()
  );
end
$$;

comment on function perdure._live_workers() is
'Ids of the workers that live at this moment (and the negative keys of leaders).';
