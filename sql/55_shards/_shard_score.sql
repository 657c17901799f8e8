-- Weighted rendezvous hashing: each worker draws a number for each shard, and the highest one has
-- it. When a worker comes or goes, only the shards that it wins or leaves change hands. It draws
-- under its machine id, which a process that is started again usually gets back.

create or replace function perdure._shard_score(
  p_queue text, p_number int, p_machine_id int, p_weight int
) returns double precision
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select -p_weight / ln(
    (perdure._hash(p_number || ' ' || p_machine_id || ' ' || p_queue) + 0.5::double precision)
    / 4294967296
  )
$$;

comment on function perdure._shard_score(text, int, int, int) is
'What a worker of this weight draws for a shard; the highest one has it.';
