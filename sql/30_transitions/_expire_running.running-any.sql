-- _expire_running: running -> any
-- Leases that are lost: ready, scheduled, or an end.
-- Locks: worker rows, SKIP LOCKED; running rows, SKIP LOCKED.
-- A dead worker's lease uses the crash budget; an overdue attempt counts as timed out.

create or replace function perdure._expire_running(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_overdue perdure.running[];
  v_recovered record;
begin
  v_ids := array(
    select o.id
    from perdure._lease_holders() as h (id)
    cross join lateral (
      select r.id
      from perdure.running as r
      where r.worker_id = h.id and r.expires_at <= p_now
      order by r.worker_id, r.expires_at
      limit p_max
    ) as o
    limit p_max
  );
  if cardinality(v_ids) > 0 then
    with gone as (
      delete from perdure.running as r
      where r.id = any(array(
        select x.id
        from perdure.running as x
        where x.id = any(v_ids) and x.expires_at <= p_now
        for update skip locked
      ))
      returning r.*
    )
    select array_agg(row(g.*)::perdure.running order by g.id) into v_overdue from gone as g;
  end if;
  select r.* into v_recovered from perdure._recover_workers(p_max, p_now) as r;
  amount := v_recovered.amount + coalesce(cardinality(v_overdue), 0);
  tellings := v_recovered.tellings
    || perdure._revoke(v_overdue, 'timed_out', 'the attempt timed out', p_now);
end
$$;

comment on function perdure._expire_running(int, timestamptz) is
'Takes away lost leases, at most p_max of each kind; amount: how many.';
