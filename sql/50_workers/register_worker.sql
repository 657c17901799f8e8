-- register_worker: a process makes itself known
-- Locks: the new row of worker; its advisory lock, for the session, in session mode. The lock is
-- taken before the row can be seen, so nobody sees a worker without a sign of life. Executions that
-- were set aside because no worker knew their task come back to the line.

create or replace function perdure.register_worker(
  name text, queues text[] default '{default}', tasks text[] default null, info jsonb default null,
  incarnation uuid default null, mode text default 'session', ttl interval default '10 seconds',
  weight int default 1
) returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  if perdure._is_name(name) is not true
    or coalesce(cardinality(queues), 0) = 0
    or exists (
      select from unnest(queues || tasks) as n (name) where perdure._is_name(n.name) is not true
    )
  then
    raise exception 'a worker has a name, a queue or more, and tasks, of 1 to 255 characters each'
      using errcode = 'QD020';
  elsif (register_worker.mode in ('session', 'lease')
    and register_worker.ttl between '1 second' and '1 day'
    and register_worker.weight between 1 and 1000) is not true
  then
    raise exception 'mode is session or lease, ttl 1 s to 1 day, weight 1 to 1000, got %, %, %',
      register_worker.mode, register_worker.ttl, register_worker.weight
      using errcode = 'QD026';
  end if;
  select w.* into v_worker
  from perdure.worker as w
  where w.incarnation = register_worker.incarnation;
  if found then  -- once is enough
    perform perdure._keep_alive(v_worker);
    return v_worker.incarnation;
  end if;
  v_worker.incarnation := coalesce(register_worker.incarnation, gen_random_uuid());
  v_worker.name := register_worker.name;
  v_worker.queues := register_worker.queues;
  v_worker.tasks := register_worker.tasks;
  v_worker.info := register_worker.info;
  v_worker.mode := register_worker.mode;
  v_worker.ttl := register_worker.ttl;
  v_worker.weight := register_worker.weight;
  v_worker := perdure._add_worker(v_worker);
  perform perdure._keep_alive(v_worker);
  perform perdure._bring_back(v_worker.queues, v_worker.tasks, 10000);
  perform perdure._assign_shards(v_worker.queues);
  return v_worker.incarnation;
end
$$;

comment on function perdure.register_worker(
  text, text[], text[], jsonb, uuid, text, interval, int
) is
'Registers a worker for queues (in order of preference) and task names (null: all), and returns its
incarnation, the secret by which it claims and reports: a given uuid, never used before, or a new
one. Registering the same one again changes nothing. mode session: it lives as long as this session,
which has to be a direct connection; lease: for `ttl` after each ping_worker(), also through a
pooler. weight: its share of shards. Raises QD009 (the incarnation lives in another session), QD010,
QD016 (a hot standby), QD020, QD026.';
