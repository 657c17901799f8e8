-- set_worker_health: an operator's word, or a health check's
-- Locks: the worker's row; the shards that change hands, SKIP LOCKED.

create or replace function perdure.set_worker_health(machine_id int, healthy boolean)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_queues text[];
begin
  perform perdure._require_read_committed();
  if healthy is null then
    raise exception 'healthy is true or false' using errcode = 'QD026';
  end if;
  update perdure.worker as w
  set is_healthy = healthy
  where w.machine_id = set_worker_health.machine_id and w.is_healthy <> healthy
  returning w.queues into v_queues;
  if found then
    perform perdure._assign_shards(v_queues);
  end if;
  return exists (
    select from perdure.worker as w where w.machine_id = set_worker_health.machine_id
  );
end
$$;

comment on function perdure.set_worker_health(int, boolean) is
'Marks a worker as healthy or not: one that is not gets no shards as long as others are healthy. It
keeps what it has begun, and what is in no sharded queue. False where no worker has this machine id.
Raises QD010, QD026.';
