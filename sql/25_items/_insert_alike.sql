-- Items that differ in nothing but input -> ready. See _template(), and _insert() for all others.
-- Ids are taken in the order given.

create or replace function perdure._insert_alike(
  p_item perdure._item,
  p_items jsonb,
  p_now timestamptz,
  p_parent_id bigint default null,
  p_generation int default null,
  p_first_position int default null
) returns bigint[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_root_id bigint;
  v_until timestamptz;
  v_ids bigint[];
begin
  if p_parent_id is not null then
    select e.root_id, case when e.deadline_at > p_now then e.deadline_at end
    into v_root_id, v_until
    from perdure.execution as e
    where e.id = p_parent_id;
  end if;
  v_until := least(v_until, p_item.deadline_at);
  with item as (
    select nextval('perdure.execution_id_seq') as id, coalesce(i.item -> 'input', '{}') as input,
      p_first_position + (i.n - 1)::int as position
    from jsonb_array_elements(p_items) with ordinality as i (item, n)
  ), fact as (
    insert into perdure.execution (
      id, parent_id, root_id, created_at, start_at, deadline_at, timeout_ms, retry_multiplier,
      retry_jitter, retry_delay_ms, retry_max_delay_ms, parent_generation, position, max_attempts,
      max_crashes, priority, is_linear, is_sleeping, is_finalize, task, queue, input, headers, tags
    )
    select
      i.id, p_parent_id, coalesce(v_root_id, i.id), p_now, p_item.start_at, v_until,
      p_item.timeout_ms, p_item.retry_multiplier, p_item.retry_jitter, p_item.retry_delay_ms,
      p_item.retry_max_delay_ms, p_generation, i.position, p_item.max_attempts,
      p_item.max_crashes, p_item.priority, p_item.is_linear, false,
      p_parent_id is not null and p_first_position is null, p_item.task, p_item.queue, i.input,
      p_item.headers, p_item.tags
    from item as i
  ), due as (
    insert into perdure.ready (
      id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
      bytes, priority, is_keyed, queue, task
    )
    select
      i.id, p_item.start_at, v_until, p_parent_id, p_generation, 0, 0, 0, 0,
      pg_column_size(i.input), p_item.priority, false, p_item.queue, p_item.task
    from item as i
  )
  select array_agg(i.id) into v_ids from item as i;
  if v_until is not null then
    insert into perdure.deadline (id, at) select i.id, v_until from unnest(v_ids) as i (id);
  end if;
  return v_ids;
end
$$;

comment on function perdure._insert_alike(perdure._item, jsonb, timestamptz, bigint, int, int) is
'Writes the items of a JSON array as executions, all of them as the resolved one but for the input;
returns their ids, in order. Children: parent, its generation and the first position; a parent
without a position makes a finalize.';
