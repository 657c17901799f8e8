-- Locks: the worker's row (by the caller), then its shards, in order: waits for transactions under
-- guard_shard(), whose writes are to be over when another worker begins.

create or replace function perdure._release_shards(
  p_worker perdure.worker, p_queue text default null, p_numbers int[] default null
) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_queues text[];
  v_count int;
begin
  perform
  from perdure.shard as s
  where s.worker_id = p_worker.id
    and (p_queue is null or s.queue = p_queue)
    and (p_numbers is null or s.number = any(p_numbers))
  order by s.worker_id, s.queue, s.number
  for update;
  with given as (
    update perdure.shard as s
    set worker_id = null, epoch = s.epoch + 1, acquired_at = null
    where s.worker_id = p_worker.id
      and (p_queue is null or s.queue = p_queue)
      and (p_numbers is null or s.number = any(p_numbers))
    returning s.queue
  )
  select count(*), array_agg(distinct g.queue) into v_count, v_queues from given as g;
  if v_count > 0 then
    update perdure.shard_queue as q
    set assigned_for = null
    where q.is_automatic and q.queue = any(v_queues);
    perform perdure._notify('{"event": "shards"}');
  end if;
  return v_count;
end
$$;

comment on function perdure._release_shards(perdure.worker, text, int[]) is
'Gives back the worker''s shards of a queue (null: of all) with these numbers (null: all).';
