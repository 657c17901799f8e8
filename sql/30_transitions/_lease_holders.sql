-- Whoever holds a lease, known or not: one index probe for each, however many leases there are.

create or replace function perdure._lease_holders() returns setof int
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  with recursive holder as (
    (select r.worker_id as id from perdure.running as r order by r.worker_id limit 1)
    union all
    select (
      select r.worker_id
      from perdure.running as r
      where r.worker_id > h.id
      order by r.worker_id
      limit 1
    )
    from holder as h
    where h.id is not null
  )
  select h.id from holder as h where h.id is not null;
end
$$;

comment on function perdure._lease_holders() is
'Ids of the workers that stand in perdure.running, each once.';
