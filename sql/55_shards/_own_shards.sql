-- Who asks for shards has to be a worker of their queue, and the queue a sharded one.
-- Locks: the worker's row, FOR NO KEY UPDATE.

create or replace function perdure._own_shards(p_worker uuid, p_queue text) returns perdure.worker
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker := perdure._enter(p_worker);
begin
  perform perdure._served(array[p_queue], v_worker.queues, 'queue');
  if not exists (select from perdure.shard_queue as q where q.queue = p_queue) then
    raise exception 'queue % is not sharded', p_queue
      using errcode = 'QD026', hint = 'Call perdure.shard_queue.';
  end if;
  return v_worker;
end
$$;

comment on function perdure._own_shards(uuid, text) is
'The worker''s row, locked. Raises QD007, QD010, QD026 (not a queue of its own, or not a sharded
one).';
