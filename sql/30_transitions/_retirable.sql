-- What nothing refers to any more but its own tree.

create or replace function perdure._retirable(p_ids bigint[], p_until timestamptz)
returns bigint[]
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select array(
    select f.id
    from perdure.finished as f
    where f.id = any(p_ids) and f.finished_at < p_until
      and not exists (select from perdure.key as k where k.id = f.id)
      and not exists (select from perdure.closing as c where c.execution_id = f.id)
  )
$$;

comment on function perdure._retirable(bigint[], timestamptz) is
'Those of the executions that ended before p_until, have no key in force and owe nothing.';
