-- expire_deadlines: any -> timed_out
-- Any live status, by a deadline or a sleeper's time-out.
-- Locks: as _expire_deadlines; last the ancestors' waiting rows, SKIP LOCKED.

create or replace function perdure.expire_deadlines(max int default 1000) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_done record;
begin
  perform perdure._require_read_committed();
  select d.* into v_done
  from perdure.config as c
  cross join perdure._expire_deadlines(expire_deadlines.max, c.cancel_limit, perdure._clock()) as d;
  perform perdure._tell(v_done.tellings, false);
  if v_done.amount > 0 then
    perform perdure._notify('{"event": "gone"}');
  end if;
  return v_done.amount;
end
$$;

comment on function perdure.expire_deadlines(int) is
'Ends executions whose deadline has passed, and sleepers whose time is up, as timed_out, with their
live subtrees; at most `max`. Returns how many were due. Raises QD010.';
