-- Defaults of a task, so that psql and every client enqueue alike. Null means the engine's default.
-- What holds for an execution is resolved once, at enqueue, and stored with the execution.

create table perdure.task (
  name text primary key,
  queue text,
  priority smallint,
  max_attempts smallint,
  max_crashes smallint,
  timeout_ms bigint,
  deadline_ms bigint,
  retry_delay_ms int,
  retry_max_delay_ms int,
  retry_multiplier double precision,
  retry_jitter double precision,
  is_linear boolean,
  is_sleeping boolean,
  tags text[],
  changed_at timestamptz not null,
  constraint task_is_a_name check (perdure._is_name(name)),
  constraint task_queue_is_a_name check (perdure._is_name(queue))
);

comment on table perdure.task is
'Defaults that define_tasks() published, by task name. Null: the engine''s default holds.';
comment on column perdure.task.deadline_ms is 'Milliseconds from enqueue to the deadline.';
comment on column perdure.task.is_linear is 'Back-off grows linearly instead of exponentially.';
