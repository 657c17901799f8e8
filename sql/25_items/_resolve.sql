-- Items become executions-to-be: given fields, else the task's defaults, else the engine's. The one
-- place where defaults stand. Ids are taken here, in the order given; a refused item wastes none.

create or replace function perdure._resolve(p_items jsonb, p_now timestamptz)
returns perdure._item[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_items perdure._item[];
begin
  with given as (
    select i.n, case jsonb_typeof(i.item) when 'object' then i.item else '{}' end as item
    from jsonb_array_elements(p_items) with ordinality as i (item, n)
  ), known as materialized (
    select
      g.n,
      coalesce(
        o.code,
        case when jsonb_typeof(g.item -> 'task') is distinct from 'string' then 'QD021' end
      ) as code,
      coalesce(o.message, 'an item is an object with a task') as message,
      g.item ->> 'task' as task,
      coalesce(o.queue, t.queue, 'default') as queue,
      coalesce(o.priority, t.priority, 0::smallint) as priority,
      coalesce(g.item -> 'input', '{}') as input,
      coalesce(o.start_at, p_now) as start_at,
      coalesce(o.deadline_at, p_now + t.deadline_ms * interval '1 millisecond') as deadline_at,
      coalesce(o.is_sleeping, t.is_sleeping, false) as is_sleeping,
      coalesce(o.timeout_ms, t.timeout_ms) as timeout_ms,
      coalesce(o.max_attempts, t.max_attempts, 1::smallint) as max_attempts,
      coalesce(o.max_crashes, t.max_crashes, 3::smallint) as max_crashes,
      coalesce(o.retry_delay_ms, t.retry_delay_ms, 1000) as retry_delay_ms,
      coalesce(o.retry_max_delay_ms, t.retry_max_delay_ms) as retry_max_delay_ms,
      coalesce(o.retry_multiplier, t.retry_multiplier, 2) as retry_multiplier,
      coalesce(o.retry_jitter, t.retry_jitter, 0.1) as retry_jitter,
      coalesce(o.is_linear, t.is_linear, false) as is_linear,
      o.key,
      coalesce(o.key_scope, g.item ->> 'task') as key_scope,
      coalesce(o.keep_ms, 0) as keep_ms,
      coalesce(o.is_kept_ever, false) as is_kept_ever,
      o.shard_key,
      o.headers,
      coalesce(o.tags, t.tags) as tags
    from given as g
    left join perdure.task as t on t.name = g.item ->> 'task'
    left join lateral (
      select given_options.*
      from perdure._options(g.item, p_now) as given_options
      where g.item - array['task', 'input'] <> '{}'
      offset 0  -- keeps the condition before the call
    ) as o on true
  ), keyed as (
    select
      k.*,
      case
        when k.is_sleeping and k.key is null and jsonb_typeof(k.input) = 'string'
          then k.input #>> '{}'
        else k.key
      end as own_key
    from known as k
  ), judged as materialized (  -- the verdict is asked for more than once
    select
      k.*,
      case
        when k.code is not null then k.code
        when not perdure._is_name(k.task) then 'QD020'
        when not perdure._is_name(k.queue) then 'QD020'
        when not perdure._is_name(k.own_key) or not perdure._is_name(k.key_scope) then 'QD020'
        when not perdure._is_name(k.shard_key) then 'QD020'
        when k.is_sleeping and (k.own_key is null or k.shard_key is not null) then 'QD026'
        when k.shard_key is not null and perdure._shards_of(k.queue) is null then 'QD026'
        when not k.is_sleeping and k.timeout_ms > 2592000000 then 'QD023'
        when perdure._exceeds(k.input, v_limit) or perdure._exceeds(k.headers, v_limit) then 'QD022'
      end as verdict
    from keyed as k
  )
  select array_agg(
    row(
      case when j.verdict is null then nextval('perdure.execution_id_seq') end,
      false,
      j.verdict,
      case
        when j.verdict is null then null
        when j.code is not null then j.message
        when j.verdict = 'QD020' then
          format('a name has 1 to 255 characters and no control characters: %s', (
            select left(to_jsonb(n.name)::text, 80)
            from unnest(array[j.task, j.queue, j.own_key, j.key_scope, j.shard_key]) as n (name)
            where not perdure._is_name(n.name)
            limit 1
          ))
        when j.verdict = 'QD026' and not j.is_sleeping then
          format('queue %s is not sharded: call perdure.shard_queue first', j.queue)
        when j.verdict = 'QD026' and j.own_key is not null then
          'a sleeping execution runs nowhere, so it cannot have a shard_key'
        when j.verdict = 'QD026' then 'a sleeping execution needs a key to be woken by'
        when j.verdict = 'QD023' then 'timeout is more than 30 days'
        else format('input or headers exceed the limit of %s bytes', v_limit)
      end,
      j.task, j.queue, j.priority, j.input, j.start_at, j.deadline_at,
      case when j.is_sleeping then j.timeout_ms else coalesce(j.timeout_ms, 300000) end,
      j.max_attempts, j.max_crashes, j.retry_delay_ms,
      coalesce(j.retry_max_delay_ms, greatest(3600000, j.retry_delay_ms)),
      j.retry_multiplier, j.retry_jitter, j.is_linear, j.is_sleeping,
      j.own_key, case when j.own_key is not null then j.key_scope end,
      j.keep_ms, j.is_kept_ever, j.headers, j.tags, j.shard_key
    )::perdure._item
    order by j.n
  )
  into v_items
  from judged as j;
  return coalesce(v_items, '{}');
end
$$;

comment on function perdure._resolve(jsonb, timestamptz) is
'The items of a JSON array with every field resolved, in order; each judged alone.';
