-- An item to enqueue, resolved: every field has its value, or code and message say why not.

create type perdure._item as (
  id bigint,
  is_taken boolean,
  code text,
  message text,
  task text,
  queue text,
  priority smallint,
  input jsonb,
  start_at timestamptz,
  deadline_at timestamptz,
  timeout_ms bigint,
  max_attempts smallint,
  max_crashes smallint,
  retry_delay_ms int,
  retry_max_delay_ms int,
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
  shard_key text
);

comment on type perdure._item is
'A resolved item between _resolve() and _insert(); with code and message where it is refused.';
