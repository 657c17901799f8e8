-- _claim: ready -> running
-- Locks: the worker's row (by the caller), then due rows of ready, in order, SKIP LOCKED; for the
-- shards that the worker owns: _shard_candidates.
-- One probe per queue keeps the index order; a cursor lets a claim start where the last one ended
-- instead of stepping over dead or foreign index entries again. Only ids are collected first: the
-- rows are moved by id, so no plan can turn the claim into a join over the room.

create or replace function perdure._claim(
  p_worker perdure.worker, p_queues text[], p_tasks text[], p_max int, p_after jsonb default null
) returns table (
  id bigint, token int, task text, attempt int, input jsonb, timeout_ms bigint, extra jsonb,
  queue text, priority smallint, start_at timestamptz, bytes int, is_last boolean
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
#variable_conflict use_column
declare
  v_now timestamptz := perdure._clock();
  v_budget bigint := (select c.claim_bytes from perdure.config as c);
  v_left int := p_max;
  v_queue text;
  v_ids bigint[];
  v_last bigint;  -- of the common line
  v_is_owner boolean;
  v_is_more boolean := false;
begin
  perform perdure._promote(v_now, greatest(p_max, 1000));
  v_is_owner := exists (select from perdure.shard as s where s.worker_id = p_worker.id);
  foreach v_queue in array p_queues loop
    exit when v_left <= 0 or v_budget <= 0;
    if v_is_owner then
      select c.ids, v_budget - c.bytes, c.last_id, v_is_more or c.is_more
      into v_ids, v_budget, v_last, v_is_more
      from perdure._both_candidates(
        p_worker.id, v_queue, p_tasks, v_left, v_budget, p_after -> v_queue
      ) as c;
    else
      select c.ids, v_budget - c.bytes, c.ids[cardinality(c.ids)] into v_ids, v_budget, v_last
      from perdure._candidates(v_queue, p_tasks, v_left, v_budget, p_after -> v_queue) as c;
    end if;
    if exists (select from perdure.closing as c where c.kind = 'end') then
      v_ids := array(select i.id from unnest(v_ids) as i (id) where not perdure._is_doomed(i.id));
    end if;
    continue when cardinality(v_ids) = 0;
    v_now := perdure._clock();  -- after the candidates were seen: none of them is younger
    return query
    with taken as (
      delete from perdure.ready as r where r.id = any(v_ids) returning r.*
    ), found as (
      select t.*, e.id is not null as has_facts, e.timeout_ms, e.is_finalize, e.root_id, e.position,
        e.key, e.headers, e.tags, e.input as first_input, a.error
      from taken as t
      left join lateral (
        select x.* from perdure.execution as x where x.id = t.id
      ) as e on true
      left join lateral (
        select y.error
        from perdure.attempt as y
        where t.attempts + t.crashes > 0 and y.execution_id = t.id
        order by y.token desc
        limit 1
      ) as a on true
    ), leased as (
      insert into perdure.running (
        id, started_at, expires_at, deadline_at, parent_id, parent_generation, worker_id, token,
        attempts, crashes, iteration, is_keyed, task, input
      )
      select
        f.id, v_now, v_now + f.timeout_ms * interval '1 millisecond', f.deadline_at, f.parent_id,
        f.parent_generation, p_worker.id, f.token + 1, f.attempts, f.crashes, f.iteration,
        f.is_keyed, f.task, f.input
      from found as f
      where f.has_facts
    ), broken as (
      -- its facts are gone: it ends alone, and its parent is told later
      insert into perdure.finished (
        id, finished_at, token, attempts, crashes, iteration, status, error
      )
      select f.id, v_now, f.token + 1, f.attempts, f.crashes, f.iteration, 'failed',
        jsonb_build_object(
          'type', 'no_facts', 'message', 'the row in perdure.execution is missing',
          'retryable', false
        )
      from found as f
      where not f.has_facts
    ), owed as (
      insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
      select 'tell', f.parent_id, f.parent_generation, 1, 1, v_now
      from found as f
      where not f.has_facts and f.parent_id is not null
    ), kept as (
      insert into perdure.closing (kind, execution_id, due_at)
      select 'turn', f.id, v_now from found as f where not f.has_facts and f.shard is not null
    )
    select
      f.id, f.token + 1, f.task, f.attempts + 1, coalesce(f.input, f.first_input), f.timeout_ms,
      case
        when f.parent_id is null and f.key is null and f.headers is null and f.tags is null
          and f.attempts + f.crashes + f.iteration = 0 and f.deadline_at is null
          and f.queue = 'default' and f.shard_key is null
          then null
        else perdure._extra(
          f.id, f.queue, f.parent_id, f.root_id, f.position, f.is_finalize, f.iteration, f.crashes,
          f.key, f.deadline_at, f.headers, f.tags, f.error, f.shard_key
        )
      end,
      f.queue, f.priority, f.start_at, f.bytes,
      f.id = v_last
    from found as f
    where f.has_facts
    order by f.priority, f.start_at, f.id;
    v_left := v_left - cardinality(v_ids);
  end loop;
  if v_is_more and v_left > 0 then  -- a last row, without an id
    is_last := false;
    return next;
  end if;
end
$$;

comment on function perdure._claim(perdure.worker, text[], text[], int, jsonb) is
'Leases up to p_max due executions to the worker, queue by queue in the order given. p_after:
{queue: [priority, start_at, id]} of the last one of the last claim, or null to begin at the head. A
last row without an id says that there is more in the worker''s shards than could be looked at.';
