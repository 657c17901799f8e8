-- A shard key may have lost its turn, or the row that stood in the line for it: the oldest of those
-- that are held comes into the line. One too many there does no harm: a claim holds it again.
-- Locks: rows of ready, SKIP LOCKED. Where somebody is at the oldest one just now, closing asks
-- again, and until then the turn is that one's on whose account it is: else a younger one that
-- stands in the line, as every new one does, would pass it. Where the turn was nobody's before,
-- that takes the shard, FOR UPDATE, SKIP LOCKED: while a claim is at it, the turn stays free.

create or replace function perdure._call_next(
  p_ids bigint[], p_queues text[], p_keys text[], p_freed bigint[], p_now timestamptz
) returns bigint[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_next bigint[];
  v_reasons bigint[];
  v_queues text[];
  v_keys text[];
  v_are_freed boolean[];
  v_free bigint[];
begin
  select array_agg(n.id), array_agg(n.reason), array_agg(n.queue), array_agg(n.shard_key),
    array_agg(n.is_freed)
  into v_next, v_reasons, v_queues, v_keys, v_are_freed
  from (
    select r.id, min(k.id) as reason, k.queue, k.shard_key, bool_or(k.id = any(p_freed)) as is_freed
    from unnest(p_ids, p_queues, p_keys) as k (id, queue, shard_key)
    cross join lateral (
      select x.id
      from perdure.ready as x
      -- a range of one key, as in _look
      where x.queue = k.queue and x.shard_key >= k.shard_key and x.shard_key <= k.shard_key
        and x.is_held
      order by x.shard_key, x.id
      limit 1
    ) as r
    where (  -- a probe each
      select t.id from perdure.turn as t where t.queue = k.queue and t.shard_key = k.shard_key
    ) is null
    group by r.id, k.queue, k.shard_key
  ) as n;
  if v_next is null then
    return null;
  end if;
  v_free := array(
    select r.id from perdure.ready as r where r.id = any(v_next) for update skip locked
  );
  update perdure.ready as r set is_held = false where r.id = any(v_free);
  if cardinality(v_free) = cardinality(v_next) then
    return v_free;
  end if;
  for v_at in 1 .. cardinality(v_next) loop
    continue when v_next[v_at] = any(v_free);
    if not v_are_freed[v_at] then
      -- nobody else can be writing a turn there while its shard is ours
      perform
      from perdure.shard as s
      where s.queue = v_queues[v_at]
        and s.number = perdure._shard_of(v_queues[v_at], v_keys[v_at])
      for update skip locked;
      continue when not found;
    end if;
    insert into perdure.turn (queue, shard_key, id)
    select v_queues[v_at], v_keys[v_at], v_reasons[v_at]
    where (
      exists (select from perdure.finished as f where f.id = v_reasons[v_at])
      -- where turns are held, one that has not ended would keep it
      or exists (
        select from perdure.shard_queue as q
        where q.queue = v_queues[v_at] and q.on_retry = 'skip'
      )
    )
    on conflict do nothing;
  end loop;
  insert into perdure.closing (kind, execution_id, due_at)
  select 'turn', n.reason, p_now + interval '100 milliseconds'
  from unnest(v_next, v_reasons) as n (id, reason)
  where n.id <> all(v_free);
  return v_free;
end
$$;

comment on function perdure._call_next(bigint[], text[], text[], bigint[], timestamptz) is
'Lets the oldest held execution of each shard key whose turn it is nobody''s into the line; their
ids. p_ids: on whose account, for closing; p_freed: those whose turns this transaction took
away.';
