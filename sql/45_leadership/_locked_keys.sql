-- Looked up in pg_locks: to try a lock would take it for a moment, and a reconnect of its owner
-- that comes just then would fail.

create or replace function perdure._locked_keys(p_backend int default null) returns int[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  return (
    select array(
      select l.objid::int
      from pg_locks as l
      where l.locktype = 'advisory'
        and l.granted
        and l.objsubid = 2
        and l.classid = (select c.lock_namespace from perdure.config as c)::oid
        and l.database = (select d.oid from pg_database as d where d.datname = current_database())
        and (p_backend is null or l.pid = p_backend)
    )
  );
end
$$;

comment on function perdure._locked_keys(int) is
'Second keys of this install''s advisory locks that are held now, by one backend or (null) by any: a
worker''s id, or a leader''s lock_key negated.';
