-- Who holds its lock. Looked up in pg_locks: trying the lock itself would make a worker's own
-- reconnect fail.

create or replace function perdure._live_workers() returns int[]
language sql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
  select array(
    select l.objid::int
    from pg_locks as l
    where l.locktype = 'advisory'
      and l.granted
      and l.objsubid = 2
      and l.classid = (select c.lock_namespace from perdure.config as c)::oid
      and l.database = (select d.oid from pg_database as d where d.datname = current_database())
  )
$$;

comment on function perdure._live_workers() is
'Ids of the workers whose session holds its advisory lock at this moment.';
