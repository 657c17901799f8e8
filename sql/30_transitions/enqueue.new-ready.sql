-- enqueue: new -> ready
-- Or scheduled, or sleeping.
-- Runs in the caller's transaction and rolls back with it. Locks: its key, if it has one.

create or replace function perdure.enqueue(
  task text,
  input jsonb default '{}',
  queue text default null,
  priority int default null,
  delay interval default null,
  run_at timestamptz default null,
  max_attempts int default null,
  timeout interval default null,
  deadline timestamptz default null,
  key text default null,
  key_for text default null,
  key_scope text default null,
  sleeping boolean default null,
  retry_delay interval default null,
  retry_multiplier double precision default null,
  retry_max_delay interval default null,
  retry_jitter double precision default null,
  retry_backoff text default null,
  max_crashes int default null,
  headers jsonb default null,
  tags text[] default null,
  notify boolean default true,
  shard_key text default null
) returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_result record;
begin
  select r.* into v_result
  from perdure.enqueue_many(jsonb_build_array(
    jsonb_strip_nulls(jsonb_build_object(
      'task', enqueue.task,
      'queue', enqueue.queue,
      'priority', enqueue.priority,
      'delay', enqueue.delay::text,
      'run_at', enqueue.run_at,
      'max_attempts', enqueue.max_attempts,
      'timeout', enqueue.timeout::text,
      'deadline', enqueue.deadline,
      'key', enqueue.key,
      'key_for', enqueue.key_for,
      'key_scope', enqueue.key_scope,
      'sleeping', enqueue.sleeping,
      'retry_delay', enqueue.retry_delay::text,
      'retry_multiplier', enqueue.retry_multiplier,
      'retry_max_delay', enqueue.retry_max_delay::text,
      'retry_jitter', enqueue.retry_jitter,
      'retry_backoff', enqueue.retry_backoff,
      'max_crashes', enqueue.max_crashes,
      'tags', enqueue.tags,
      'shard_key', enqueue.shard_key
    )) || jsonb_build_object('input', coalesce(enqueue.input, 'null'))
    || case
      when enqueue.headers is null then '{}'
      else jsonb_build_object('headers', enqueue.headers)
    end
  ), enqueue.notify) as r;
  if v_result.code is not null then
    raise exception 'cannot enqueue %: %', coalesce(enqueue.task, 'null'), v_result.message
      using errcode = v_result.code;
  end if;
  return v_result.id;
end
$$;

comment on function perdure.enqueue(
  text, jsonb, text, int, interval, timestamptz, int, interval, timestamptz, text, text, text,
  boolean, interval, double precision, interval, double precision, text, int, jsonb, text[],
  boolean, text
) is
'Enqueues one execution of a task and returns its id. Null arguments mean the task''s defaults, else
the engine''s (docs/reference/sql.md). With a key that is in force it returns the id that has it.
A shard_key needs a sharded queue: perdure.shard_queue().
Raises QD003 (the key has another task or input), QD020 to QD026 (bad argument).';
