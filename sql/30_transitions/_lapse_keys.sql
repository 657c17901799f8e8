-- Keys that were kept for an interval after the end are dropped when it is over.
-- Locks: rows of key, SKIP LOCKED.

create or replace function perdure._lapse_keys(p_now timestamptz, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_count int;
begin
  delete from perdure.key as k
  where k.until <= p_now
    and k.id = any(array(
      select x.id
      from perdure.key as x
      where x.until <= p_now
      order by x.until
      limit p_max
      for update skip locked
    ));
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._lapse_keys(timestamptz, int) is
'Drops up to p_max keys whose time is over; returns how many.';
