-- The cheapest question there is, so that an idle worker writes nothing.

create or replace function perdure._has_due(p_queues text[], p_worker_id int default null)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return exists (
    -- asked in a sub-select, the clock is read once and can bound an index
    select from perdure.scheduled as s where s.start_at <= (select perdure._clock())
  ) or exists (
    select
    from unnest(p_queues) as q (name)
    cross join lateral (
      select from perdure.ready as r
      where r.queue = q.name and not r.is_aside and r.shard is null
      limit 1
    ) as r
  ) or exists (
    select
    from unnest(p_queues) as q (name)
    cross join lateral (  -- one probe where no shard has anything
      select from perdure.ready as r
      where r.queue = q.name and r.shard is not null and not r.is_held and not r.is_aside
      order by r.shard
      limit 1
    ) as any_shard
    cross join lateral (
      select s.number
      from perdure.shard as s
      where s.worker_id = p_worker_id and s.queue = q.name
      offset 0
    ) as own
    cross join lateral (
      select from perdure.ready as r
      where r.queue = q.name and r.shard >= own.number and r.shard <= own.number
        and not r.is_held and not r.is_aside
      order by r.shard
      limit 1
    ) as r
  );
end
$$;

comment on function perdure._has_due(text[], int) is
'True when something may be claimed from these queues (of their shards: from those that this worker
owns), or moved into them.';
