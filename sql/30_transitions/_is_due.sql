-- Is there anything for a sweep to do? A few index probes, so that an idle sweeper writes nothing
-- and locks nothing.

create or replace function perdure._is_due(p_channels text[], p_now timestamptz) returns boolean
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return exists (select from perdure.scheduled as s where s.start_at <= p_now)
    or exists (
      select
      from perdure._lease_holders() as h (id)
      cross join lateral (
        select from perdure.running as r where r.worker_id = h.id and r.expires_at <= p_now limit 1
      ) as r
    )
    or exists (select from perdure.deadline as d where d.at <= p_now)
    or exists (select from perdure.closing as c where c.due_at <= p_now)
    or exists (select from perdure.key as k where k.until <= p_now)
    or perdure._is_worker_lost(p_now)
    or exists (
      select
      from perdure.shard_queue as q
      where q.is_automatic and q.assigned_for is distinct from perdure._assigned_for(
        q.queue, (select perdure._live_workers())::int[]
      )
    )
    or exists (select from perdure._misplaced(p_channels))
    or perdure._is_retention_due(p_now);
end
$$;

comment on function perdure._is_due(text[], timestamptz) is
'True when a sweep of these queues (null: all) would change something, or might.';
