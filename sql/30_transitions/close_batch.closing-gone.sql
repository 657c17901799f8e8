-- close_batch: closing -> gone
-- Locks: as _close_batch; last waiting rows, SKIP LOCKED.

create or replace function perdure.close_batch(max int default 1000) returns int
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
  cross join perdure._close_batch(close_batch.max, c.cancel_limit, perdure._clock()) as d;
  if perdure._tell(v_done.tellings, false) > 0 then
    perform perdure._notify_ready();
  end if;
  return v_done.amount;
end
$$;

comment on function perdure.close_batch(int) is
'Pays up to `max` debts of ended executions: tells parents, cancels descendants (about
config.cancel_limit a call), recounts. Returns how many rows of closing it took. Raises QD010.';
