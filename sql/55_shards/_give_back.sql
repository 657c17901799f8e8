-- Turns are over: of executions that ended, or (on_retry skip) that do not run. Which it is, is
-- asked with the turn locked: what closing still owes may be long past.
-- Locks: rows of turn, SKIP LOCKED, then rows of ready, SKIP LOCKED; it waits for nobody, for its
-- callers hold rooms that a claim's transaction may wait for at its end. A claim that sets rows of
-- a key behind its turn holds that turn FOR KEY SHARE until its commit: it is left to closing, for
-- whoever looked for the next one now would not see them.

create or replace function perdure._give_back(p_ids bigint[], p_now timestamptz) returns bigint[]
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
  v_free bigint[];
  v_busy bigint[];
  v_ended bigint[];
  v_freed bigint[];
  v_ids bigint[];
  v_queues text[];
  v_keys text[];
begin
  if p_ids is null or not exists (select from perdure.shard_queue) then
    return null;
  end if;
  select array_agg(k.id), array_agg(k.queue), array_agg(k.shard_key)
  into v_ids, v_queues, v_keys
  from (
    select t.id, t.queue, t.shard_key from perdure.turn as t where t.id = any(p_ids)
    union
    select e.id, e.queue, e.shard_key
    from perdure.execution as e
    where e.id = any(p_ids) and e.shard_key is not null
  ) as k;
  if v_ids is null then
    return null;
  end if;
  v_free := array(
    select t.id from perdure.turn as t where t.id = any(v_ids) for update skip locked
  );
  v_busy := array(select r.id from perdure.running as r where r.id = any(v_free));
  v_ended := array(
    select i.id
    from unnest(v_free) as i (id)
    where exists (select from perdure.finished as f where f.id = i.id)
      or not exists (select from perdure.execution as e where e.id = i.id)  -- retention was there
  );
  with gone as (
    delete from perdure.turn as t
    where t.id = any(v_free)
      and t.id <> all(v_busy)
      and (t.id = any(v_ended) or t.queue = any(array(
        select q.queue from perdure.shard_queue as q where q.on_retry = 'skip'
      )))
    returning t.id
  )
  select coalesce(array_agg(g.id), '{}') into v_freed from gone as g;
  insert into perdure.closing (kind, execution_id, due_at)
  select 'turn', t.id, p_now + interval '100 milliseconds'
  from perdure.turn as t
  where t.id = any(v_ids) and t.id <> all(v_free);
  return perdure._call_next(v_ids, v_queues, v_keys, v_freed, p_now);
end
$$;

comment on function perdure._give_back(bigint[], timestamptz) is
'Gives back the turns of these executions, as far as they have any, and lets the next one of each
shard key into the line; the ids of those.';
