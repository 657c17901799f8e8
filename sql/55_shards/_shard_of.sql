-- Asked where a row comes into ready. A queue that has lost its shards (which shard_queue() and
-- unshard_queue() refuse while there is work) must not fail the batch that finds it so.

create or replace function perdure._shard_of(p_queue text, p_key text) returns int
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  return coalesce(
    (
      select (perdure._hash(p_key) % q.shards)::int
      from perdure.shard_queue as q
      where q.queue = p_queue
    ),
    0
  );
end
$$;

comment on function perdure._shard_of(text, text) is 'The shard of a key, from 0.';
