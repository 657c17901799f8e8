-- release_all_shards: a worker gives all its shards back
-- Locks: as release_shards.

create or replace function perdure.release_all_shards(worker uuid) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  return perdure._release_shards(perdure._enter(worker));
end
$$;

comment on function perdure.release_all_shards(uuid) is
'Gives back every shard of this worker, of all queues; returns how many. Raises QD007, QD010.';
