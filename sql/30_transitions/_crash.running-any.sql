-- _crash: running -> any
-- Ready again, or failed when the crash budget is used up.
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
  v_rows perdure.running[];
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
  select array_agg(row(g.*)::perdure.running order by g.id) into v_rows from gone as g;
  amount := coalesce(cardinality(v_rows), 0);
  tellings := perdure._revoke(v_rows, 'crashed', 'the worker that ran it died', p_now);
end
$$;

comment on function perdure._crash(int[], int, timestamptz) is
'Takes up to p_max leases from these workers as crashed.';
