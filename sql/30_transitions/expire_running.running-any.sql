-- expire_running: running -> any
-- Leases that are lost: ready, scheduled, or an end.
-- Locks: as _expire_running; last the parents' waiting rows, SKIP LOCKED.

create or replace function perdure.expire_running(max int default 1000) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_done record;
begin
  perform perdure._require_read_committed();
  select d.* into v_done from perdure._expire_running(expire_running.max, perdure._clock()) as d;
  perform perdure._tell(v_done.tellings, false);
  if v_done.amount > 0 then
    perform perdure._notify('{"event": "gone"}');
  end if;
  return v_done.amount;
end
$$;

comment on function perdure.expire_running(int) is
'Takes away the leases of workers that died and of attempts that are overdue; at most `max` of each.
Returns how many. Each is retried or ends as its policy says: timed_out, or failed with error type
crashed when the crash budget is used up. Raises QD010.';
