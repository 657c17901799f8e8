-- acquire_shards: a worker takes shards
-- Locks: the worker's row, then the shards, SKIP LOCKED: one that is changing hands is not granted.
-- Asking again changes nothing. A live worker's shard is never granted to another one.

create or replace function perdure.acquire_shards(
  worker uuid, queue text, numbers int[] default null
) returns table (number int, epoch bigint)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_worker perdure.worker := perdure._own_shards(worker, queue);
  v_live int[] := perdure._live_workers();
  v_asked int[] := acquire_shards.numbers;
  v_free int[];
begin
  if numbers is null or exists (
    select from perdure.shard_queue as q where q.queue = acquire_shards.queue and q.is_automatic
  ) then  -- of an automatic queue none that the next assignment would take away
    v_asked := array(
      select a.shard
      from perdure.shard_assignment(acquire_shards.queue) as a
      where a.worker_id = v_worker.id
        and (acquire_shards.numbers is null or a.shard = any(acquire_shards.numbers))
    );
  end if;
  v_free := array(
    select s.number
    from perdure.shard as s
    where s.queue = acquire_shards.queue
      and s.number = any(v_asked)
      and s.worker_id is distinct from v_worker.id
      and (s.worker_id is null or s.worker_id <> all(v_live))
    for update skip locked
  );
  if cardinality(v_free) > 0 then
    update perdure.shard as s
    set worker_id = v_worker.id, epoch = s.epoch + 1, acquired_at = perdure._clock()
    where s.queue = acquire_shards.queue and s.number = any(v_free);
    perform perdure._notify('{"event": "shards"}');
  end if;
  return query
  select s.number, s.epoch
  from perdure.shard as s
  where s.queue = acquire_shards.queue
    and s.number = any(v_asked)
    and s.worker_id = v_worker.id
  order by s.number;
end
$$;

comment on function perdure.acquire_shards(uuid, text, int[]) is
'Takes those of the shards that are free, or whose owner is dead (null: those that shard_assignment
gives to this worker; of a queue that is rebalanced, only these). Returns all of the asked ones that
it owns then, each with its epoch. Raises QD007, QD010, QD026.';
