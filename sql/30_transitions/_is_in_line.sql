-- Ordered, so that no other index is read past rows that are set aside or held.

create or replace function perdure._is_in_line() returns boolean
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select r.id
    from perdure.ready as r
    where not r.is_aside and r.shard is null
    order by r.queue, r.priority, r.start_at, r.id
    limit 1
  ) is not null or (
    select r.id
    from perdure.ready as r
    where r.shard is not null and not r.is_held and not r.is_aside
    order by r.queue, r.shard, r.id
    limit 1
  ) is not null;
end
$$;

comment on function perdure._is_in_line() is 'True when some worker could claim something.';
