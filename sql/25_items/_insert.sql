-- Resolved items -> ready, scheduled or waiting (sleepers). Here executions begin, but for those
-- that are alike (_insert_alike) and the plainest, which enqueue() writes itself. Children come
-- with their parent's place; only the transaction that moves or holds the parent's room row may
-- call it for them. What few items need has statements of its own, since even one that finds no row
-- to insert has to be started.

create or replace function perdure._insert(
  p_items perdure._item[],
  p_now timestamptz,
  p_parent_id bigint default null,
  p_generation int default null,
  p_first_position int default null
) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_root_id bigint;
  v_until timestamptz;  -- the parent's deadline; a redriven parent outlives it
  v_due int;
begin
  if p_parent_id is not null then
    select e.root_id, case when e.deadline_at > p_now then e.deadline_at end
    into v_root_id, v_until
    from perdure.execution as e
    where e.id = p_parent_id;
  end if;
  insert into perdure.execution (
    id, parent_id, root_id, created_at, start_at, deadline_at, timeout_ms, retry_multiplier,
    retry_jitter, retry_delay_ms, retry_max_delay_ms, parent_generation, position, max_attempts,
    max_crashes, priority, is_linear, is_sleeping, is_finalize, task, queue, key, key_scope,
    input, headers, tags, shard_key
  )
  select
    i.id, p_parent_id, coalesce(v_root_id, i.id), p_now, i.start_at, least(i.deadline_at, v_until),
    i.timeout_ms, i.retry_multiplier, i.retry_jitter, i.retry_delay_ms, i.retry_max_delay_ms,
    p_generation, p_first_position + (i.ordinality - 1)::int, i.max_attempts, i.max_crashes,
    i.priority, i.is_linear, i.is_sleeping, p_parent_id is not null and p_first_position is null,
    i.task, i.queue, i.key, case when i.key is not null then i.key_scope end, i.input, i.headers,
    i.tags, i.shard_key
  from unnest(p_items) with ordinality as i;
  insert into perdure.ready (
    id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
    bytes, priority, is_keyed, queue, task, shard, shard_key
  )
  select
    i.id, i.start_at, least(i.deadline_at, v_until), p_parent_id, p_generation, 0, 0, 0, 0,
    pg_column_size(i.input), i.priority, i.key is not null or i.shard_key is not null, i.queue,
    i.task, case when i.shard_key is not null then perdure._shard_of(i.queue, i.shard_key) end,
    i.shard_key
  from unnest(p_items) as i
  where i.start_at <= p_now and not i.is_sleeping;
  get diagnostics v_due = row_count;
  if v_due < cardinality(p_items) then
    insert into perdure.scheduled (
      id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
      bytes, priority, is_keyed, queue, task, shard_key
    )
    select
      i.id, i.start_at, least(i.deadline_at, v_until), p_parent_id, p_generation, 0, 0, 0, 0,
      pg_column_size(i.input), i.priority, i.key is not null or i.shard_key is not null, i.queue,
      i.task, i.shard_key
    from unnest(p_items) as i
    where i.start_at > p_now and not i.is_sleeping;
    insert into perdure.waiting (
      id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, token,
      attempts, crashes, iteration, is_keyed, phase, task
    )
    select
      i.id, p_now, p_now, least(i.deadline_at, v_until), p_parent_id, p_generation, 0, 0, 0, 0, 0,
      0, true, 'sleep', i.task
    from unnest(p_items) as i
    where i.is_sleeping;
  end if;
  -- whether one item needs a row is known without a statement that looks
  if cardinality(p_items) > 1 or (p_items[1]).is_sleeping
    or coalesce((p_items[1]).deadline_at, v_until) is not null
  then
    insert into perdure.deadline (id, at)
    select
      i.id,
      least(
        i.deadline_at, v_until,
        case when i.is_sleeping then i.start_at + i.timeout_ms * interval '1 millisecond' end
      )
    from unnest(p_items) as i
    where coalesce(i.deadline_at, v_until) is not null
      or (i.is_sleeping and i.timeout_ms is not null);
  end if;
end
$$;

comment on function perdure._insert(perdure._item[], timestamptz, bigint, int, int) is
'Writes resolved items as executions. Children: parent, its generation and the first position; a
parent without a position makes a finalize.';
