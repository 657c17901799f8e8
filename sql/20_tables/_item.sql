-- An item to enqueue. First it holds what was given, in types wide enough for what is out of range;
-- resolved, every field has its value, or code and message say why not.

create type perdure._item as (
  id bigint,
  is_taken boolean,
  code text,
  message text,
  task text,
  queue text,
  priority int,
  input jsonb,
  start_at timestamptz,
  deadline_at timestamptz,
  timeout_ms bigint,
  max_attempts int,
  max_crashes int,
  retry_delay_ms bigint,
  retry_max_delay_ms bigint,
  retry_multiplier double precision,
  retry_jitter double precision,
  is_linear boolean,
  is_sleeping boolean,
  key text,
  key_scope text,
  keep_ms bigint,
  is_kept_ever boolean,
  headers jsonb,
  tags text[],
  shard_key text,
  delay_ms bigint
);

comment on type perdure._item is
'An item between the call that gives it and _insert(); with code and message where it is refused.';
