-- Enqueue goes by the number of shards, so the number must not change until it has committed.
-- Locks: the row of shard_queue, FOR KEY SHARE; waits for a shard_queue() that is under way.

create or replace function perdure._shards_of(p_queue text) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  return (
    select q.shards from perdure.shard_queue as q where q.queue = p_queue for key share
  );
end
$$;

comment on function perdure._shards_of(text) is
'The number of shards of a queue, fixed until this transaction ends; null where it has none.';
