-- unregister_worker: a worker leaves; what it still holds goes back unharmed
-- Locks: the worker's row, its running rows.

create or replace function perdure.unregister_worker(worker uuid) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
  v_held perdure.running[];
  v_back int;
begin
  with gone as (
    delete from perdure.running as r where r.worker_id = v_worker.id returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_held from gone as g;
  delete from perdure.worker as w where w.id = v_worker.id;
  delete from perdure.worker_lease as l where l.worker_id = v_worker.id;
  perform perdure._unlock(v_worker.id);
  perform perdure._assign_shards(v_worker.queues);
  v_back := perdure._hand_back(v_held, 1, perdure._clock());
  if v_back > 0 then
    perform perdure._notify_ready();
  end if;
  return v_back;
end
$$;

comment on function perdure.unregister_worker(uuid) is
'Removes a worker; its leases go back to ready without using an attempt. Returns how many. Raises
QD007, QD010.';
