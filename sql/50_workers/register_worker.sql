-- register_worker: a process makes itself known
-- Locks: the session advisory lock (config.lock_namespace, id), held until this session ends. It is
-- taken before the row can be seen, so nobody sees a worker without its lock. Executions that were
-- set aside because no worker knew their task come back to the line.

create or replace function perdure.register_worker(
  name text, queues text[] default '{default}', tasks text[] default null, info jsonb default null
) returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  perform perdure._require_read_committed();
  if perdure._is_name(name) is not true
    or coalesce(cardinality(queues), 0) = 0
    or exists (
      select from unnest(queues || tasks) as n (name) where perdure._is_name(n.name) is not true
    )
  then
    raise exception 'a worker has a name, a queue or more, and tasks, of 1 to 255 characters each'
      using errcode = 'QD020';
  end if;
  insert into perdure.worker (name, queues, tasks, info, registered_at)
  values (
    register_worker.name, register_worker.queues, register_worker.tasks, register_worker.info,
    perdure._clock()
  )
  returning * into v_worker;
  perform pg_advisory_lock(c.lock_namespace, v_worker.id) from perdure.config as c;
  perform perdure._bring_back(v_worker.queues, v_worker.tasks, 10000);
  return v_worker.incarnation;
end
$$;

comment on function perdure.register_worker(text, text[], text[], jsonb) is
'Registers this session as a worker for queues (in order of preference) and task names (null: all),
and returns its incarnation, the secret by which it claims and reports. It lives as long as this
session, which has to be a direct connection. Raises QD010, QD020.';
