-- An item as it was given becomes an execution-to-be: given fields, else the task's defaults, else
-- the engine's. The one place where defaults stand, and the verdict on all but input and key, which
-- _judged() gives: items that differ in nothing else are resolved once.

create or replace function perdure._resolved(p_item perdure._item, p_now timestamptz)
returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_task perdure.task;
  v_bad text;
  v_limit int;
begin
  if p_item.code is not null then
    return p_item;
  elsif p_item.task is null then
    p_item.code := 'QD021';
    p_item.message := 'an item is an object with a task';
    return p_item;
  end if;
  select t.* into v_task from perdure.task as t where t.name = p_item.task;
  -- one expression: each one is prepared anew in every transaction
  p_item := row(
    null,
    false,
    null,
    null,
    p_item.task,
    coalesce(p_item.queue, v_task.queue, 'default'),
    coalesce(p_item.priority, v_task.priority, 0),
    p_item.input,
    coalesce(p_item.start_at, p_now + p_item.delay_ms * interval '1 millisecond', p_now),
    coalesce(p_item.deadline_at, p_now + v_task.deadline_ms * interval '1 millisecond'),
    coalesce(
      p_item.timeout_ms, v_task.timeout_ms,
      case when coalesce(p_item.is_sleeping, v_task.is_sleeping) is not true then 300000 end
    ),
    coalesce(p_item.max_attempts, v_task.max_attempts, 1),
    coalesce(p_item.max_crashes, v_task.max_crashes, 3),
    coalesce(p_item.retry_delay_ms, v_task.retry_delay_ms, 1000),
    coalesce(
      p_item.retry_max_delay_ms, v_task.retry_max_delay_ms,
      greatest(3600000, p_item.retry_delay_ms, v_task.retry_delay_ms)
    ),
    coalesce(p_item.retry_multiplier, v_task.retry_multiplier, 2),
    coalesce(p_item.retry_jitter, v_task.retry_jitter, 0.1),
    coalesce(p_item.is_linear, v_task.is_linear, false),
    coalesce(p_item.is_sleeping, v_task.is_sleeping, false),
    p_item.key,
    coalesce(p_item.key_scope, p_item.task),
    coalesce(p_item.keep_ms, 0),
    coalesce(p_item.is_kept_ever, false),
    p_item.headers,
    coalesce(p_item.tags, v_task.tags),
    p_item.shard_key,
    p_item.delay_ms
  )::perdure._item;
  v_bad := case false
    when perdure._is_name(p_item.task) then p_item.task
    when perdure._is_name(p_item.queue) then p_item.queue
    when perdure._is_name(p_item.key_scope) then p_item.key_scope
    when perdure._is_name(p_item.shard_key) then p_item.shard_key
  end;
  if v_bad is not null then
    p_item.code := 'QD020';
    p_item.message := format(
      'a name has 1 to 255 characters and no control characters: %s', left(to_json(v_bad)::text, 80)
    );
  elsif not p_item.is_sleeping and p_item.timeout_ms > 2592000000 then
    p_item.code := 'QD023';
    p_item.message := 'timeout is more than 30 days';
  elsif p_item.shard_key is not null then
    if p_item.is_sleeping then
      p_item.code := 'QD026';
      p_item.message := 'a sleeping execution runs nowhere, so it cannot have a shard_key';
    elsif perdure._shards_of(p_item.queue) is null then
      p_item.code := 'QD026';
      p_item.message := format(
        'queue %s is not sharded: call perdure.shard_queue first', p_item.queue
      );
    end if;
  end if;
  if p_item.headers is not null then
    select c.payload_limit into v_limit from perdure.config as c;
    if perdure._exceeds(p_item.headers, v_limit) then
      p_item.code := 'QD022';
      p_item.message := format('headers exceed the limit of %s bytes', v_limit);
    end if;
  end if;
  return p_item;
end
$$;

comment on function perdure._resolved(perdure._item, timestamptz) is
'The item with every field resolved but those of input and key; code and message where it is
refused.';
