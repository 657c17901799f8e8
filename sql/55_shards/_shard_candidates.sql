-- The lines of one worker's shards, oldest first; priority does not count.
-- An execution whose key is free takes the turn; the first one of its key in the line is the oldest
-- that is due. One behind another of its key is held: out of the line, so that it is looked at
-- once, however many there are. Up to six looks, each wider than the one before, so a key with many
-- rows in front does not keep the others back for long.
-- Locks: shards, FOR KEY SHARE (one that is changing hands is stepped over); rows of ready; turns,
-- FOR KEY SHARE, behind which rows are to be held: SKIP LOCKED all. What cannot be locked stays in
-- the line, and the younger ones of its key behind it. Only the owner of a shard takes turns there,
-- so a key that is free at a look stays free until it is taken here.

create or replace function perdure._shard_candidates(
  p_worker_id int, p_queue text, p_tasks text[], p_max int, p_budget bigint,
  out ids bigint[], out bytes bigint, out is_more boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_shards int[];
  v_after bigint[];  -- where the last look ended, in each of them
  v_width int := 2 * p_max;
  v_look record;
  v_most int := greatest(64, 2 * p_max);  -- of very many shards only so many, now these, now those
  v_first int := random() * 4096;
  v_is_cut boolean;
  v_has_called boolean := false;
  v_closed text[] := '{}';  -- keys that are somebody else's until the next claim
begin
  ids := '{}';
  bytes := 0;
  is_more := false;
  if p_max <= 0 or p_budget <= 0 then
    return;
  end if;
  v_shards := array(
    select s.number
    from (
      select o.number
      from perdure.shard as o
      where o.worker_id = p_worker_id and o.queue = p_queue
      order by o.number < v_first, o.number
    ) as s
    where (  -- a probe each, as in _look
      select r.id
      from perdure.ready as r
      where r.queue = p_queue and r.shard >= s.number and r.shard <= s.number
        and not r.is_held and not r.is_aside
      order by r.shard, r.id
      limit 1
    ) is not null
    limit v_most
  );
  v_is_cut := cardinality(v_shards) = v_most;
  v_after := array_fill(0::bigint, array[cardinality(v_shards)]);
  for v_turn in 1 .. 6 loop
    exit when cardinality(v_shards) = 0;
    select l.* into v_look
    from perdure._look(
      p_worker_id, p_queue, p_tasks, v_shards, v_after,
      ceil(v_width::numeric / cardinality(v_shards))::int, p_max - cardinality(ids),
      p_budget - bytes, v_closed
    ) as l;
    ids := ids || v_look.ids;
    bytes := bytes + v_look.bytes;
    v_shards := v_look.shards;
    v_after := v_look.after;
    v_closed := v_closed || v_look.closed;
    v_has_called := v_has_called or v_look.has_called;
    exit when cardinality(ids) >= p_max or bytes >= p_budget;
    is_more := v_is_cut or v_turn = 6 and cardinality(v_shards) > 0;
    v_width := greatest(least(4 * v_width, 1000), p_max);
  end loop;
  is_more := is_more or v_has_called;
end
$$;

comment on function perdure._shard_candidates(int, text, text[], int, bigint) is
'Ids from the shards of a worker for tasks that it knows (null: all), locked for a claim, their
turns taken. is_more: fewer than wanted, and the lines were not read to their ends.';
