-- _claim: ready -> running
-- Locks: the worker's row (by the caller), then due rows of ready, in order, SKIP LOCKED; for the
-- shards that the worker owns: _shard_candidates.
-- One probe per queue keeps the index order; a cursor lets a claim start where the last one ended
-- instead of stepping over dead or foreign index entries again. Only ids are collected first: the
-- rows are moved by id, so no plan can turn the claim into a join over the room.

create or replace function perdure._claim(
  p_worker perdure.worker, p_queues text[], p_tasks text[], p_max int, p_after jsonb,
  out claimed json, out next_after jsonb, out more boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz;
  v_budget bigint;
  v_ids bigint[] := '{}';
  v_lasts bigint[] := '{}';  -- of each queue's common line
  v_found record;
  v_queue text;
  v_is_owner boolean;
  v_broken perdure.ready[];
begin
  select
    c.claim_bytes,
    exists (select from perdure.shard as s where s.worker_id = p_worker.id)
  into v_budget, v_is_owner
  from perdure.config as c;
  more := false;
  foreach v_queue in array p_queues loop
    exit when cardinality(v_ids) >= p_max or v_budget <= 0;
    if v_is_owner then
      v_found := perdure._both_candidates(
        p_worker.id, v_queue, p_tasks, p_max - cardinality(v_ids), v_budget, p_after -> v_queue
      );
      v_lasts := v_lasts || v_found.last_id;
      more := more or v_found.is_more;
    else
      v_found := perdure._candidates(
        v_queue, p_tasks, p_max - cardinality(v_ids), v_budget, p_after -> v_queue
      );
      v_lasts := v_lasts || v_found.ids[cardinality(v_found.ids)];
    end if;
    v_ids := v_ids || v_found.ids;
    v_budget := v_budget - v_found.bytes;
  end loop;
  if exists (select from perdure.closing as c where c.kind = 'end') then
    v_ids := array(select i.id from unnest(v_ids) as i (id) where not perdure._is_doomed(i.id));
  end if;
  -- fewer than wanted: the head of a line was not looked at, the byte budget was used up, or there
  -- is more in the worker's shards
  more := cardinality(v_ids) < p_max and (more or p_after is not null or v_budget <= 0);
  if cardinality(v_ids) = 0 then
    return;
  end if;
  v_now := perdure._clock();  -- after the candidates were seen: none of them is younger
  with taken as (
    delete from perdure.ready as r where r.id = any(v_ids) returning r.*
  ), found as (
    select t.*, e.id is not null as has_facts, e.timeout_ms, e.is_finalize, e.root_id, e.position,
      e.key, e.headers, e.tags, e.input as first_input
    from taken as t
    left join lateral (  -- limited, so that it stays a probe for each
      select x.* from perdure.execution as x where x.id = t.id limit 1
    ) as e on true
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
  )
  select
    json_agg(
      json_build_array(
        f.id, f.token + 1, f.task, f.attempts + 1, coalesce(f.input, f.first_input), f.timeout_ms,
        case
          when f.parent_id is null and f.key is null and f.headers is null and f.tags is null
            and f.attempts + f.crashes + f.iteration = 0 and f.deadline_at is null
            and f.queue = 'default' and f.shard_key is null
            then null
          else perdure._extra(
            f.id, f.queue, f.parent_id, f.root_id, f.position, f.is_finalize, f.iteration,
            f.crashes, f.key, f.deadline_at, f.headers, f.tags, f.shard_key
          )
          || case
            when f.attempts + f.crashes > 0 then (
              select jsonb_strip_nulls(jsonb_build_object('error', a.error))
              from perdure.attempt as a
              where a.execution_id = f.id
              order by a.token desc
              limit 1
            )
            else '{}'
          end
        end
      ) order by array_position(p_queues, f.queue), f.priority, f.start_at, f.id
    ) filter (where f.has_facts),
    jsonb_object_agg(f.queue, jsonb_build_array(f.priority, f.start_at, f.id))
      filter (where f.id = any(v_lasts)),
    array_agg(row(
      f.id, f.start_at, f.deadline_at, f.parent_id, f.parent_generation, f.token, f.attempts,
      f.crashes, f.iteration, f.bytes, f.priority, f.is_keyed, f.is_aside, f.queue, f.task,
      f.input, f.shard, f.shard_key, f.is_held
    )::perdure.ready) filter (where not f.has_facts)
  into claimed, next_after, v_broken
  from found as f;
  if v_broken is not null then
    perform perdure._end_broken(v_broken, v_now);
  end if;
end
$$;

comment on function perdure._claim(perdure.worker, text[], text[], int, jsonb) is
'Leases up to p_max due executions to the worker, queue by queue in the order given. p_after:
{queue: [priority, start_at, id]} of the last one of the last claim, or null to begin at the head.
claimed: arrays [id, token, task, attempt, input, timeout_ms, extra], null for none; next_after:
where this claim ended; more: fewer than wanted, and not all was looked at.';
