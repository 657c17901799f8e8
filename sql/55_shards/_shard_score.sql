-- Weighted rendezvous hashing: each worker draws a number for each shard, and the highest one has
-- it. When a worker comes or goes, only the shards that it wins or leaves change hands. It draws
-- under its machine id, which a process that is started again usually gets back. Shards times
-- workers are drawn for each assignment: so it has no settings of its own, and is inlined.

create or replace function perdure._shard_score(
  p_queue text, p_number int, p_machine_id int, p_weight int
) returns double precision
language sql
stable
as $$
  select -p_weight / pg_catalog.ln(
    (perdure._hash(p_number || ' ' || p_machine_id || ' ' || p_queue) + 0.5::double precision)
    / 4294967296
  )
$$;

comment on function perdure._shard_score(text, int, int, int) is
'What a worker of this weight draws for a shard; the highest one has it.';
