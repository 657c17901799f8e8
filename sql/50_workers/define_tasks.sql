-- define_tasks: publishes defaults, so that psql and every client enqueue alike. Rows that would
-- not change are not written. Executions that exist keep what they were enqueued with.

create or replace function perdure.define_tasks(tasks jsonb) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz := perdure._clock();
  v_task jsonb;
  v perdure._item;
  v_row perdure.task;
  v_changed int := 0;
begin
  perform perdure._require_read_committed();
  if jsonb_typeof(tasks) is distinct from 'array' then
    raise exception 'tasks have to be a JSON array' using errcode = 'QD021';
  end if;
  for v_task in
    select case jsonb_typeof(t.value) when 'object' then t.value else '{}' end
    from jsonb_array_elements(tasks) as t
    order by t.value ->> 'name'
  loop
    v := perdure._options(v_task - array['name', 'deadline'], v_now);
    if v.code is null
      and v_task ?| array[
        'key', 'key_for', 'key_scope', 'shard_key', 'delay', 'run_at', 'headers'
      ]
    then
      v.code := 'QD026';
      v.message :=
        'key, key_for, key_scope, shard_key, delay, run_at and headers belong to one execution';
    elsif v.code is null and (
      perdure._is_name(v_task ->> 'name') is not true
      or not coalesce(perdure._is_name(v.queue), true)
    ) then
      v.code := 'QD020';
      v.message := 'a task and its queue have names of 1 to 255 characters';
    elsif v.code is null and v.timeout_ms > 2592000000 and v.is_sleeping is not true then
      v.code := 'QD023';
      v.message := 'timeout is more than 30 days';
    elsif v.code is null and perdure._delay_ms(v_task -> 'deadline') < 1 then
      v.code := 'QD023';
      v.message := 'the deadline of a task is a duration from its enqueue';
    end if;
    if v.code is not null then
      raise exception 'cannot define task %: %', coalesce(v_task ->> 'name', 'null'), v.message
        using errcode = v.code;
    end if;
    v_row := row(
      v_task ->> 'name', v.queue, v.priority, v.max_attempts, v.max_crashes, v.timeout_ms,
      perdure._delay_ms(v_task -> 'deadline'), v.retry_delay_ms, v.retry_max_delay_ms,
      v.retry_multiplier, v.retry_jitter, v.is_linear, v.is_sleeping, v.tags, v_now
    )::perdure.task;
    continue when exists (
      select from perdure.task as t
      where t.name = v_row.name and to_jsonb(t) - 'changed_at' = to_jsonb(v_row) - 'changed_at'
    );
    insert into perdure.task select v_row.*
    on conflict (name) do update
    set queue = excluded.queue, priority = excluded.priority, max_attempts = excluded.max_attempts,
      max_crashes = excluded.max_crashes, timeout_ms = excluded.timeout_ms,
      deadline_ms = excluded.deadline_ms, retry_delay_ms = excluded.retry_delay_ms,
      retry_max_delay_ms = excluded.retry_max_delay_ms,
      retry_multiplier = excluded.retry_multiplier, retry_jitter = excluded.retry_jitter,
      is_linear = excluded.is_linear, is_sleeping = excluded.is_sleeping, tags = excluded.tags,
      changed_at = excluded.changed_at;
    v_changed := v_changed + 1;
  end loop;
  return v_changed;
end
$$;

comment on function perdure.define_tasks(jsonb) is
'Publishes task defaults: an array of {"name", and any of queue, priority, max_attempts,
max_crashes, timeout, deadline (a duration), retry_delay, retry_max_delay, retry_multiplier,
retry_jitter, retry_backoff, sleeping, tags}. All or none. Returns how many changed. Raises QD010,
QD020 to QD026.';
