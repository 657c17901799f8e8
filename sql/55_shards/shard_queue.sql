-- shard_queue: a queue becomes a sharded one, or changes
-- Locks: its row in shard_queue, FOR UPDATE: waits for those who are enqueuing with a shard key;
-- then its shards, SKIP LOCKED. The number changes only while no live execution stands in a shard.

create or replace function perdure.shard_queue(
  queue text, shards int default 64, on_retry text default 'hold', rebalance boolean default true
) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_old perdure.shard_queue;
begin
  perform perdure._require_read_committed();
  if perdure._is_name(queue) is not true then
    raise exception 'a queue has a name of 1 to 255 characters' using errcode = 'QD020';
  elsif (shard_queue.shards between 1 and 4096
    and shard_queue.on_retry in ('hold', 'skip')
    and shard_queue.rebalance is not null) is not true
  then
    raise exception 'shards is 1 to 4096, on_retry hold or skip, rebalance true or false: %, %, %',
      shard_queue.shards, shard_queue.on_retry, shard_queue.rebalance
      using errcode = 'QD026';
  end if;
  insert into perdure.shard_queue (queue, shards, on_retry, is_automatic)
  values (
    shard_queue.queue, shard_queue.shards, shard_queue.on_retry, shard_queue.rebalance
  )
  on conflict do nothing;
  select q.* into v_old
  from perdure.shard_queue as q
  where q.queue = shard_queue.queue
  for update;
  if v_old.shards <> shard_queue.shards then
    perform perdure._remove_shards(shard_queue.queue, shard_queue.shards);
  end if;
  insert into perdure.shard (queue, number)
  select shard_queue.queue, n.number
  from generate_series(0, shard_queue.shards - 1) as n (number)
  on conflict do nothing;
  update perdure.shard_queue as q
  set shards = shard_queue.shards, on_retry = shard_queue.on_retry,
    is_automatic = shard_queue.rebalance, assigned_for = null
  where q.queue = shard_queue.queue;
  perform perdure._assign_shards(array[shard_queue.queue]);
end
$$;

comment on function perdure.shard_queue(text, int, text, boolean) is
'Makes a queue a sharded one, or changes it: executions enqueued with a shard_key run one at a time
for each key, by id, all of a key at the worker that owns its shard. on_retry: hold (one that waits
for its retry, or for its children, keeps its key back) or skip (it lets the next one pass).
rebalance: shards are shared out among the workers of the queue by weight; false: workers call
acquire_shards() and release_shards(). Raises QD010, QD011 (another number of shards, while the
queue has live executions with a shard_key, or a shard is in use), QD020, QD026.';
