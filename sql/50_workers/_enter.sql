-- Every transition of a worker begins here: its row is locked until the transaction ends, so that
-- it runs one at a time, and no sweep can give the worker up while it moves rows.

create or replace function perdure._enter(p_worker uuid, p_call bigint default null)
returns perdure.worker
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  perform perdure._require_read_committed();
  select w.* into v_worker
  from perdure.worker as w
  where w.incarnation = p_worker
  for no key update;
  if v_worker.id is null then
    return perdure._require_worker(p_worker);  -- refuses
  end if;
  if p_call < v_worker.least_call then
    raise exception 'call % was sent before this worker resumed with call %',
      p_call, v_worker.least_call
      using errcode = 'QD009';
  end if;
  return v_worker;
end
$$;

comment on function perdure._enter(uuid, bigint) is
'The worker''s row, locked (FOR NO KEY UPDATE). Raises QD007 for an unknown worker, QD009 for a call
from before its last resume, QD010 for the wrong isolation level.';
