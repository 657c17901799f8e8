-- _promote: scheduled -> ready
-- Locks: due rows of scheduled, SKIP LOCKED; waits for nobody. No queue is asked for: whoever comes
-- first moves what is due.

create or replace function perdure._promote(p_now timestamptz, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids bigint[];
  v_count int;
begin
  v_ids := array(
    select s.id
    from perdure.scheduled as s
    where s.start_at <= p_now
    order by s.start_at
    limit p_max
    for update skip locked
  );
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  with gone as (
    delete from perdure.scheduled as s where s.id = any(v_ids) returning s.*
  )
  insert into perdure.ready (
    id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
    bytes, priority, is_keyed, queue, task, input, shard, shard_key
  )
  select
    g.id, g.start_at, g.deadline_at, g.parent_id, g.parent_generation, g.token, g.attempts,
    g.crashes, g.iteration, g.bytes, g.priority, g.is_keyed, g.queue, g.task, g.input,
    case when g.shard_key is not null then perdure._shard_of(g.queue, g.shard_key) end, g.shard_key
  from gone as g;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._promote(timestamptz, int) is
'Moves up to p_max executions that are due by p_now to ready; returns how many.';
