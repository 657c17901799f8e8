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
  v_now timestamptz := perdure._clock();
  v_item perdure._item;
  v_items perdure._item[];
  v_holder bigint;
begin
  if num_nonnulls(enqueue.key_for, enqueue.retry_backoff) > 0 then  -- these have to be read
    v_item := perdure._options(jsonb_strip_nulls(jsonb_build_object(
      'key_for', enqueue.key_for, 'retry_backoff', enqueue.retry_backoff
    )), v_now);
  end if;
  v_item.task := enqueue.task;
  v_item.input := coalesce(enqueue.input, 'null');
  v_item.queue := enqueue.queue;
  v_item.priority := enqueue.priority;
  v_item.key := enqueue.key;
  -- most calls have nothing more to say
  if enqueue.priority not between -32768 and 32767 or num_nonnulls(
    enqueue.delay, enqueue.run_at, enqueue.max_attempts, enqueue.timeout, enqueue.deadline,
    enqueue.key_scope, enqueue.sleeping, enqueue.retry_delay, enqueue.retry_multiplier,
    enqueue.retry_max_delay, enqueue.retry_jitter, enqueue.max_crashes, enqueue.headers,
    enqueue.tags, enqueue.shard_key
  ) > 0 then
    v_item.delay_ms := perdure._interval_ms(enqueue.delay);
    v_item.start_at := enqueue.run_at;
    v_item.max_attempts := enqueue.max_attempts;
    v_item.timeout_ms := perdure._interval_ms(enqueue.timeout);
    v_item.deadline_at := enqueue.deadline;
    v_item.key_scope := enqueue.key_scope;
    v_item.is_sleeping := enqueue.sleeping;
    v_item.retry_delay_ms := perdure._interval_ms(enqueue.retry_delay);
    v_item.retry_multiplier := enqueue.retry_multiplier;
    v_item.retry_max_delay_ms := perdure._interval_ms(enqueue.retry_max_delay);
    v_item.retry_jitter := enqueue.retry_jitter;
    v_item.max_crashes := enqueue.max_crashes;
    v_item.headers := nullif(enqueue.headers, 'null');
    v_item.tags := enqueue.tags;
    v_item.shard_key := enqueue.shard_key;
    v_item := perdure._checked_options(v_item, v_now);
  end if;
  v_item := perdure._resolved(v_item, v_now);
  -- no payload limit is below a kibibyte
  if v_item.is_sleeping or not perdure._is_name(v_item.key) or perdure._exceeds(v_item.input, 1024)
  then
    v_item := perdure._judged(v_item);
  end if;
  if v_item.code is null then
    v_item.id := nextval('perdure.execution_id_seq');
    if v_item.key is not null then
      v_holder := perdure._take_key(v_item, v_now);
      if v_holder <> v_item.id then
        v_item := perdure._taken(v_item, v_holder, null);
      end if;
    end if;
  end if;
  if v_item.code is not null then
    raise exception 'cannot enqueue %: %', coalesce(enqueue.task, 'null'), v_item.message
      using errcode = v_item.code;
  elsif v_item.is_taken then
    return v_item.id;
  elsif v_item.is_sleeping or v_item.start_at > v_now
    or num_nonnulls(v_item.deadline_at, v_item.shard_key) > 0
  then
    v_items := array[v_item];
    perform perdure._insert(v_items, v_now);
    if enqueue.notify then
      perform perdure._announce(v_items, v_now);
    end if;
    return v_item.id;
  end if;
  -- What most calls come to has statements of its own: reading the item out of an array costs as
  -- much again as all else that is done for it.
  with fact as (
    insert into perdure.execution (
      id, root_id, created_at, start_at, timeout_ms, retry_multiplier, retry_jitter,
      retry_delay_ms, retry_max_delay_ms, max_attempts, max_crashes, priority, is_linear,
      is_sleeping, is_finalize, task, queue, key, key_scope, input, headers, tags
    )
    values (
      v_item.id, v_item.id, v_now, v_item.start_at, v_item.timeout_ms, v_item.retry_multiplier,
      v_item.retry_jitter, v_item.retry_delay_ms, v_item.retry_max_delay_ms, v_item.max_attempts,
      v_item.max_crashes, v_item.priority, v_item.is_linear, false, false, v_item.task,
      v_item.queue, v_item.key, case when v_item.key is not null then v_item.key_scope end,
      v_item.input, v_item.headers, v_item.tags
    )
  )
  insert into perdure.ready (
    id, start_at, token, attempts, crashes, iteration, bytes, priority, is_keyed, queue, task
  )
  values (
    v_item.id, v_item.start_at, 0, 0, 0, 0, pg_column_size(v_item.input), v_item.priority,
    v_item.key is not null, v_item.queue, v_item.task
  );
  if enqueue.notify then
    perform perdure._notify_ready(array[v_item.queue], 1);
  end if;
  return v_item.id;
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
