-- _crash: running -> any
-- Ready again, or failed: when the crash budget is used up, or at once when the attempt began
-- longer ago than config.stale_fail_after, for then nobody may want it any more.
-- Locks: running rows of the given workers, SKIP LOCKED.

create or replace function perdure._crash(
  p_workers int[], p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_since timestamptz := p_now - (select c.stale_fail_after from perdure.config as c);
  v_recent perdure.running[];
  v_stale perdure.running[];
begin
  with gone as (
    delete from perdure.running as r
    where r.id = any(array(
      select x.id
      from perdure.running as x
      where x.worker_id = any(p_workers)
      order by x.worker_id, x.expires_at
      limit p_max
      for update skip locked
    ))
    returning r.*
  )
  select
    array_agg(row(g.*)::perdure.running order by g.id)
      filter (where (g.started_at < v_since) is not true),
    array_agg(row(g.*)::perdure.running order by g.id) filter (where g.started_at < v_since)
  into v_recent, v_stale
  from gone as g;
  amount := coalesce(cardinality(v_recent), 0) + coalesce(cardinality(v_stale), 0);
  tellings := perdure._revoke(v_recent, 'crashed', 'the worker that ran it died', p_now);
  if v_stale is not null then
    tellings := tellings || perdure._settle(
      v_stale,
      array_fill('failed'::text, array[cardinality(v_stale)]),
      array_fill(
        jsonb_build_object(
          'type', 'stale', 'retryable', false,
          'message', 'the worker that ran it died, long after the attempt began'
        ),
        array[cardinality(v_stale)]
      ),
      array_fill(null::bigint, array[cardinality(v_stale)]),
      1, p_now
    );
  end if;
end
$$;

comment on function perdure._crash(int[], int, timestamptz) is
'Takes up to p_max leases from these workers as crashed, or as stale.';
