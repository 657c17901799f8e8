-- unshard_queue: a queue is an ordinary one again
-- Locks: as shard_queue.

create or replace function perdure.unshard_queue(queue text) returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  perform perdure._require_read_committed();
  perform from perdure.shard_queue as q where q.queue = unshard_queue.queue for update;
  if not found then
    return false;
  end if;
  perform perdure._remove_shards(unshard_queue.queue, 0);
  delete from perdure.shard_queue as q where q.queue = unshard_queue.queue;
  return true;
end
$$;

comment on function perdure.unshard_queue(text) is
'Makes a sharded queue an ordinary one again; false where it was none. Raises QD010, QD011 (it has
live executions with a shard_key, or a shard is in use).';
