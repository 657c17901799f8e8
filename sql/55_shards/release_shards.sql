-- release_shards: a worker gives shards back
-- Locks: the worker's row, then the shards: waits for transactions under guard_shard().

create or replace function perdure.release_shards(worker uuid, queue text, numbers int[])
returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  return perdure._release_shards(
    perdure._own_shards(worker, queue), release_shards.queue, coalesce(numbers, '{}')
  );
end
$$;

comment on function perdure.release_shards(uuid, text, int[]) is
'Gives back those of the shards that this worker owns; returns how many. A queue that is rebalanced
is shared out anew by the next sweep. Raises QD007, QD010, QD026.';
