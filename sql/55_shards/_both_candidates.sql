-- A queue has a common line, and one for each shard. Each side gives half of what is wanted, so
-- that neither can starve the other, and more where the other one has less.
-- Locks: _candidates, _shard_candidates. The common line may be asked twice: what is locked already
-- is found again.

create or replace function perdure._both_candidates(
  p_worker_id int, p_queue text, p_tasks text[], p_max int, p_budget bigint, p_after jsonb,
  out ids bigint[], out bytes bigint, out last_id bigint, out is_more boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_half int := (p_max + (random() < 0.5)::int) / 2;  -- of one: now this side, now that
  v_sharded record;
begin
  select c.ids, c.bytes into ids, bytes
  from perdure._candidates(p_queue, p_tasks, v_half, p_budget, p_after) as c;
  select s.* into v_sharded
  from perdure._shard_candidates(
    p_worker_id, p_queue, p_tasks, p_max - cardinality(ids), p_budget - bytes
  ) as s;
  if cardinality(ids) = v_half and cardinality(ids) + cardinality(v_sharded.ids) < p_max then
    select c.ids, c.bytes into ids, bytes
    from perdure._candidates(
      p_queue, p_tasks, p_max - cardinality(v_sharded.ids), p_budget - v_sharded.bytes, p_after
    ) as c;
  end if;
  last_id := ids[cardinality(ids)];
  ids := ids || v_sharded.ids;
  bytes := bytes + v_sharded.bytes;
  is_more := v_sharded.is_more;
end
$$;

comment on function perdure._both_candidates(int, text, text[], int, bigint, jsonb) is
'Ids to be claimed from a queue by an owner of shards, locked; last_id: where the common line was
left.';
