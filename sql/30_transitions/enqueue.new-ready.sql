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
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := perdure._clock();
  v_item perdure._item;
  v_items perdure._item[];
begin
  if num_nonnulls(
    enqueue.priority, enqueue.delay, enqueue.run_at, enqueue.max_attempts, enqueue.timeout,
    enqueue.deadline, enqueue.key_for, enqueue.key_scope, enqueue.sleeping, enqueue.retry_delay,
    enqueue.retry_multiplier, enqueue.retry_max_delay, enqueue.retry_jitter, enqueue.retry_backoff,
    enqueue.max_crashes, enqueue.headers, enqueue.tags, enqueue.shard_key
  ) > 0 then
    if num_nonnulls(enqueue.key_for, enqueue.retry_backoff) > 0 then  -- these have to be read
      v_item := perdure._options(jsonb_strip_nulls(jsonb_build_object(
        'key_for', enqueue.key_for, 'retry_backoff', enqueue.retry_backoff
      )), v_now);
    end if;
    v_item.priority := enqueue.priority;
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
  v_item.task := enqueue.task;
  v_item.queue := enqueue.queue;
  v_item.key := enqueue.key;
  v_item.input := coalesce(enqueue.input, 'null');
  v_item := perdure._resolved(v_item, v_now);
  -- no payload limit is below a kibibyte
  if v_item.key is not null or v_item.is_sleeping or perdure._exceeds(v_item.input, 1024) then
    v_item := perdure._judged(v_item);
  end if;
  if v_item.code is null then
    v_item.id := nextval('perdure.execution_id_seq');
    if v_item.key is not null then
      v_item := perdure._keyed(v_item, null, v_now);
    end if;
  end if;
  if v_item.code is not null then
    raise exception 'cannot enqueue %: %', coalesce(enqueue.task, 'null'), v_item.message
      using errcode = v_item.code;
  elsif not v_item.is_taken then
    v_items := array[v_item];
    perform perdure._insert(v_items, v_now);
    if enqueue.notify then
      perform perdure._announce(v_items, v_now);
    end if;
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
