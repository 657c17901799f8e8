-- What _recover_workers() would do, asked without doing it.

create or replace function perdure._is_worker_lost(p_now timestamptz) returns boolean
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
  return (
    select exists (
      select
      from perdure.worker as w
      cross join lateral (
        select w.id = any((select perdure._live_workers())::int[]) as is_alive
      ) as l
      where l.is_alive = (w.lost_at is not null)
        or (not l.is_alive and c.is_settled and w.lost_at <= p_now - c.worker_grace)
    ) or c.is_settled and exists (
      select
      from perdure._lease_holders() as h (id)
      where not exists (select from perdure.worker as w where w.id = h.id)
    )
    from (
      select
        g.worker_grace,
        clock_timestamp() >= pg_postmaster_start_time() + g.restart_grace as is_settled
      from perdure.config as g
    ) as c
  );
end
$$;

comment on function perdure._is_worker_lost(timestamptz) is
'True when a worker died or came back, or a dead one''s work is to be taken away.';
