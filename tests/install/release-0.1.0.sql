-- The schema holds everything of Perdure: nothing is created outside of it.

create schema perdure;

comment on schema perdure is
'Perdure: durable tasks inside PostgreSQL. Every transition is a function here; see sql/README.md.';
-- The only version number of the project: the Python package reads it from this line.

create or replace function perdure.version() returns text
language sql
immutable
parallel safe
return '0.1.0';

comment on function perdure.version() is
'Version of the installed schema, major.minor.patch. A client of the same major.minor fits.';
-- Functions may name one another, whatever the order of their files; tests call every one of them.

set check_function_bodies = off;
-- The engine's only clock. Tests replace this function by one that reads a row; production has
-- no such row, so nobody can move the time.

create or replace function perdure._clock() returns timestamptz
language sql
volatile
as $$ select pg_catalog.clock_timestamp() $$;

comment on function perdure._clock() is
'The database''s wall clock at the moment of the call; the engine trusts no other.';
-- A delay inside an outcome must not be able to fail the batch around it.

create or replace function perdure._delay_ms(p_delay jsonb) returns bigint
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_ms bigint;
begin
  if p_delay is null or p_delay = 'null' then
    return null;
  end if;
  v_ms := perdure._milliseconds(p_delay);
  return case when v_ms between 0 and 315360000000 then v_ms else -1 end;
exception
  when data_exception then
    return -1;
end
$$;

comment on function perdure._delay_ms(jsonb) is
'Whole milliseconds; null for none; -1 for what is no duration between 0 and ten years.';
-- Stored errors have one shape, whatever a worker sent: {type, message, retryable, …}, bounded.

create or replace function perdure._error(
  p_given jsonb, p_type text, p_message text, p_is_retryable boolean, p_limit int
) returns jsonb
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select case
    when perdure._exceeds(p_given, p_limit) then jsonb_build_object(
      'type', coalesce(left(p_given ->> 'type', 255), p_type),
      'message', left(coalesce(p_given ->> 'message', p_message), 10000),
      'retryable', coalesce(p_given -> 'retryable' = 'true', p_is_retryable),
      'truncated', true
    )
    else
      jsonb_build_object('type', p_type, 'message', p_message, 'retryable', p_is_retryable)
      || case jsonb_typeof(p_given)
        when 'object' then p_given
        when 'string' then jsonb_build_object('message', p_given)
        else '{}'
      end
  end
$$;

comment on function perdure._error(jsonb, text, text, boolean, int) is
'The error to store: what was given (an object, or a message), completed by the defaults; cut to
10,000 characters of message when it has more than p_limit bytes.';
-- One character of stored jsonb prints as six at most (\u0001), and every other value prints
-- shorter than it is stored: so small values are passed without being printed. Stable, for only
-- then can it be inlined.

create or replace function perdure._exceeds(p_value jsonb, p_limit int) returns boolean
language sql
stable
as $$
  select case
    when pg_catalog.pg_column_size(p_value) < p_limit / 6 then false
    else pg_catalog.octet_length(p_value::text) > p_limit
  end
$$;

comment on function perdure._exceeds(jsonb, int) is
'True when the value, printed as JSON text, has more than p_limit bytes; null for null.';
-- What task, queue, key, scope, tag and worker names have to look like.

create or replace function perdure._is_name(p_name text) returns boolean
language sql
immutable
parallel safe
as $$
  select pg_catalog.char_length(p_name) between 1 and 255
    and p_name !~ '[\u0001-\u001f\u007f-\u009f]'
$$;

comment on function perdure._is_name(text) is
'True for 1 to 255 characters without control characters (C0, DEL, C1); null for null.';
-- Durations in JSON: a number is seconds, a string an interval.

create or replace function perdure._milliseconds(p_duration jsonb) returns bigint
language sql
stable
as $$
  select case pg_catalog.jsonb_typeof(p_duration)
    when 'number' then pg_catalog.round((p_duration #>> '{}')::numeric * 1000)::bigint
    -- by way of a double: an infinite interval is then out of range (class 22) on every version
    else pg_catalog.round(
      extract(epoch from (p_duration #>> '{}')::interval)::double precision * 1000
    )::bigint
  end
$$;

comment on function perdure._milliseconds(jsonb) is
'Whole milliseconds of a duration given as seconds (number) or interval (string).';
-- Moments in JSON: a number is seconds from now, a string a timestamp.

create or replace function perdure._moment(p_moment jsonb, p_now timestamptz) returns timestamptz
language sql
stable
as $$
  select case pg_catalog.jsonb_typeof(p_moment)
    when 'number' then p_now + (p_moment #>> '{}')::double precision * interval '1 second'
    else (p_moment #>> '{}')::timestamptz
  end
$$;

comment on function perdure._moment(jsonb, timestamptz) is
'The moment given as a timestamp (string) or as seconds from p_now (number).';
-- A transition counts on seeing what was committed before each of its statements. Under a longer
-- snapshot its guards would read the past (or fail half-way with 40001), so it refuses at once.

create or replace function perdure._require_read_committed() returns void
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception 'a transition needs isolation level read committed, this transaction has %',
      current_setting('transaction_isolation')
      using errcode = 'QD010',
        hint = 'Call it in a transaction of its own; enqueue and reading run at any level.';
  end if;
end
$$;

comment on function perdure._require_read_committed() is
'Raises QD010 unless the transaction is read committed.';
-- base * multiplier^(n-1), or base * n; capped; then jittered; always whole milliseconds, so that
-- no fraction can reach a bigint column. The power is capped before it can overflow.

create or replace function perdure._retry_delay_ms(
  p_retry int,
  p_base_ms int,
  p_multiplier double precision,
  p_cap_ms int,
  p_jitter double precision,
  p_is_linear boolean
) returns bigint
language sql
volatile
as $$
  select pg_catalog.round(
    (
      case
        when p_base_ms = 0 then 0
        when p_is_linear then least(p_base_ms::double precision * p_retry, p_cap_ms)
        when p_multiplier > 1 and (p_retry - 1) * pg_catalog.ln(p_multiplier) > 20 then p_cap_ms
        when p_multiplier < 1 and (p_retry - 1) * pg_catalog.ln(p_multiplier) < -20 then 0
        else least(p_base_ms * pg_catalog.power(p_multiplier, p_retry - 1), p_cap_ms)
      end * (1 + p_jitter * (2 * pg_catalog.random() - 1))
    )::numeric
  )::bigint
$$;

comment on function perdure._retry_delay_ms(
  int, int, double precision, int, double precision, boolean
) is
'Milliseconds to wait before retry number p_retry (1, 2, …): exponential or linear, capped, then
spread by ± p_jitter (0 to 1).';
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
  tags text[]
);

comment on type perdure._item is
'A resolved item between _resolve() and _insert(); with code and message where it is refused.';
-- What ended children have to tell their parents, collected by a transaction until its last step.

create type perdure._telling as (
  parent_id bigint,
  generation int,
  amount int,
  failures int
);

comment on type perdure._telling is
'`amount` children of this generation of parent_id ended, `failures` of them not completed.';
-- Attempts that were not the end, and outcomes that a redrive set aside. Insert only.

create table perdure.attempt (
  execution_id bigint,
  token int,
  attempt int not null,
  worker_id int,
  started_at timestamptz,
  ended_at timestamptz not null,
  status text not null,
  error jsonb,
  output jsonb,
  primary key (execution_id, token),
  constraint attempt_status_is_known check (
    status in ('failed', 'timed_out', 'crashed', 'completed', 'finalize_failed', 'cancelled')
  )
);

comment on table perdure.attempt is
'Attempts after which the execution went on: failed, timed out, crashed, or ended and redriven.
The last attempt of an ended execution stands in finished.';
comment on column perdure.attempt.token is
'Of the lease that reported it; where the lease was taken away, one more than that.';
-- What an ended execution still owes to its tree, where one transaction could not do it all.

create table perdure.closing (
  id bigint generated always as identity primary key,
  execution_id bigint not null,
  generation int,
  amount int,
  failures int,
  position int,
  kind text not null,
  status text,
  error jsonb,
  due_at timestamptz not null,
  constraint closing_kind_is_known check (kind in ('tell', 'end', 'recount')),
  constraint tell_has_amounts check (
    kind <> 'tell' or (generation is not null and amount is not null and failures is not null)
  ),
  constraint end_has_status_and_error check (
    kind <> 'end' or (status is not null and error is not null)
  )
) with (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02);

create index closing_by_execution on perdure.closing (execution_id);

comment on table perdure.closing is
'Debts of ended executions to their trees, paid by close_batch(). Usually empty.';
comment on column perdure.closing.kind is
'tell: tell parent execution_id that `amount` children of `generation` ended. end: end execution_id,
if it lives, and then its descendants. recount: set its counter from its children.';
comment on column perdure.closing.due_at is
'Not worked off before; later than now where another transaction had the rows locked.';
comment on column perdure.closing.position is
'end: children up to this position are done (of `generation`).';
-- One row of settings for the whole install.

create table perdure.config (
  is_only boolean primary key default true,
  payload_limit int not null default 1048576,
  claim_bytes int not null default 8388608,
  cancel_limit int not null default 10000,
  lock_namespace int not null default (random() * 2147483647)::int,
  worker_grace interval not null default '1 second',
  restart_grace interval not null default '5 seconds',
  constraint config_has_one_row check (is_only),
  constraint payload_limit_is_1_kib_to_64_mib check (payload_limit between 1024 and 67108864),
  constraint claim_bytes_is_positive check (claim_bytes > 0),
  constraint cancel_limit_is_positive check (cancel_limit > 0),
  constraint graces_are_not_negative check (worker_grace >= '0' and restart_grace >= '0')
);

insert into perdure.config default values;

comment on table perdure.config is 'Settings of this install; exactly one row.';
comment on column perdure.config.payload_limit is
'Bytes of one input, output or error, printed as JSON text. Default 1 MiB.';
comment on column perdure.config.claim_bytes is
'Bytes of inputs at which one claim stops (it returns at least one execution). Default 8 MiB.';
comment on column perdure.config.cancel_limit is
'Executions that one transaction ends when a subtree is cancelled; the rest goes through closing.';
comment on column perdure.config.lock_namespace is
'First key of the two-key advisory locks by which workers show that they live.';
comment on column perdure.config.worker_grace is
'How long a worker without its lock is given to come back before its work is taken away.';
comment on column perdure.config.restart_grace is
'How long after a start of the server no worker is given up: all of them lost their lock with it.';
-- When an execution has to be over, wherever it stands: deadlines, and the time-out of sleepers.

create table perdure.deadline (
  id bigint primary key,
  at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02);

create index deadline_by_time on perdure.deadline (at, id);

comment on table perdure.deadline is
'The moment at which a live execution is ended as timed_out. No row where there is none.';
-- What was asked: insert only, never updated, so that history costs the hot path nothing.
-- No constraint but the id stands on it: it can be partitioned by ranges of id.

create table perdure.execution (
  id bigint generated by default as identity primary key,
  parent_id bigint,
  root_id bigint not null,
  created_at timestamptz not null,
  start_at timestamptz not null,
  deadline_at timestamptz,
  timeout_ms bigint,
  retry_multiplier double precision not null,
  retry_jitter double precision not null,
  retry_delay_ms int not null,
  retry_max_delay_ms int not null,
  parent_generation int,
  position int,
  max_attempts smallint not null,
  max_crashes smallint not null,
  priority smallint not null,
  is_linear boolean not null,
  is_sleeping boolean not null,
  is_finalize boolean not null,
  task text not null,
  queue text not null,
  key text,
  key_scope text,
  input jsonb,
  headers jsonb,
  tags text[],
  constraint parent_is_older check (parent_id < id),
  constraint child_has_place check ((parent_id is null) = (parent_generation is null)),
  constraint finalize_has_a_parent check (not is_finalize or parent_id is not null),
  constraint key_has_a_scope check ((key is null) = (key_scope is null)),
  constraint only_sleepers_may_lack_a_timeout check (is_sleeping or timeout_ms is not null)
);

create index execution_by_parent
on perdure.execution (parent_id, parent_generation, position)
where parent_id is not null;

create index execution_by_key
on perdure.execution (key_scope, key, id)
where key is not null;

comment on table perdure.execution is
'One row for each execution, as it was asked for. Never updated: where it stands is told by the room
(scheduled, ready, running, waiting, finished) that holds a row of the same id.';
comment on column perdure.execution.parent_generation is
'Which parking of the parent spawned this child; a redriven parent parks anew.';
comment on column perdure.execution.position is
'Place among the siblings, from 0, in the order given; null for a root and for a finalize.';
comment on column perdure.execution.start_at is 'When it was first due.';
comment on column perdure.execution.timeout_ms is
'Of one attempt; for a sleeping execution from start_at to the end of its sleep, null for none.';
-- Room: the outcome. Insert only; a redrive moves the row to attempt.
-- No constraint but the id stands on it: it can be partitioned by ranges of id.

create table perdure.finished (
  id bigint primary key,
  started_at timestamptz,
  finished_at timestamptz not null,
  worker_id int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  status text not null,
  output jsonb,
  error jsonb,
  constraint end_status_is_known
  check (status in ('completed', 'failed', 'timed_out', 'finalize_failed', 'cancelled')),
  constraint error_iff_not_completed check ((error is null) = (status = 'completed')),
  constraint output_only_when_completed check (output is null or status = 'completed')
);

comment on table perdure.finished is
'Room of ended executions: status completed, failed, timed_out, finalize_failed or cancelled.';
comment on column perdure.finished.token is
'Token of the lease that reported the outcome; higher than any lease where none did.';
comment on column perdure.finished.error is
'{type, message, retryable, …}; see docs/reference/errors.md.';
-- Idempotency and wake keys. The primary key makes a second caller wait for the first one's commit.

create table perdure.key (
  scope text,
  key text,
  id bigint not null,
  keep_ms bigint,
  until timestamptz,
  primary key (scope, key)
) with (autovacuum_vacuum_scale_factor = 0.02);

create index key_by_id on perdure.key (id);
create index key_by_until on perdure.key (until) where until is not null;

comment on table perdure.key is
'Keys in force: scope (the task, unless another was given) and key lead to one execution.';
comment on column perdure.key.keep_ms is
'Milliseconds that the key outlives its execution; 0: it goes with it; null: for ever.';
comment on column perdure.key.until is
'When it lapses; null while the execution lives or for ever.';
-- Which files of migrations/ this database has seen.

create table perdure.migration (
  name text primary key,
  applied_at timestamptz not null default now()
);

comment on table perdure.migration is
'Names of the applied migrations. A fresh install records all that it was built from.';
-- What a waiting parent needs at its end and not before: apart, so that counting stays cheap.

create table perdure.parked (
  id bigint primary key,
  output jsonb,
  finalize jsonb
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.parked is
'Output and finalize item of a parked parent; no row where there is neither.';
comment on column perdure.parked.finalize is 'The item to enqueue when the last child has ended.';
-- Room: due now. Only what may start at once stands here; future work stands in scheduled, so a
-- claim never reads past rows that it must not take. Rows of a task that no live worker of the
-- queue knows are set aside (is_aside), out of the claim's index, until such a worker registers.

create table perdure.ready (
  id bigint primary key,
  start_at timestamptz not null,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  bytes int not null,
  priority smallint not null,
  is_keyed boolean not null,
  is_aside boolean not null default false,
  queue text not null,
  task text not null,
  input jsonb,
  constraint ready_counters_are_not_negative check (token >= 0 and attempts >= 0 and crashes >= 0)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

create index ready_in_order
on perdure.ready (queue, priority, start_at, id)
where not is_aside;

create index ready_aside
on perdure.ready (queue, task, id)
where is_aside;

comment on table perdure.ready is
'Room of executions that are due: status ready. Claimed by queue, then priority, start_at, id.';
comment on column perdure.ready.token is
'Number of claims and revocations so far; the next lease gets a higher one, so no report repeats.';
comment on column perdure.ready.attempts is 'Attempts used up.';
comment on column perdure.ready.crashes is
'Crashes: attempts whose worker died; a budget of its own.';
comment on column perdure.ready.iteration is 'How often `again` was reported.';
comment on column perdure.ready.bytes is 'Size of the input, for the byte budget of a claim.';
comment on column perdure.ready.input is 'Input given by `again`; it goes before the original one.';
comment on column perdure.ready.is_aside is
'No live worker of this queue knows the task; claims do not see the row.';
-- Room: leased to a worker. The lease is (id, worker, token); whoever reports has to name it.
-- Nothing here is updated: there is no heartbeat on work rows, a worker's session shows its life.

create table perdure.running (
  id bigint primary key,
  started_at timestamptz not null,
  expires_at timestamptz not null,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  worker_id int not null,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  is_keyed boolean not null,
  task text not null,
  input jsonb,
  constraint lease_ends_after_it_began check (expires_at > started_at),
  constraint lease_has_a_token check (token > 0)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

create index running_by_worker on perdure.running (worker_id, expires_at);

comment on table perdure.running is
'Room of leased executions: status running. At most the total concurrency of all workers.';
comment on column perdure.running.expires_at is
'started_at + timeout: past it the attempt counts as timed out, whatever its worker does.';
comment on column perdure.running.attempts is
'Attempts used up before this one; this one has number attempts + 1.';
-- Room: due later (delay, run_at, retry back-off, again). Claims and sweeps move due rows to ready.

create table perdure.scheduled (
  id bigint primary key,
  start_at timestamptz not null,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  bytes int not null,
  priority smallint not null,
  is_keyed boolean not null,
  queue text not null,
  task text not null,
  input jsonb,
  constraint scheduled_counters_are_not_negative
  check (token >= 0 and attempts >= 0 and crashes >= 0)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

create index scheduled_by_start on perdure.scheduled (start_at, id);

comment on table perdure.scheduled is
'Room of executions that are due later: status ready with a start_at in the future.';
comment on column perdure.scheduled.input is
'Input given by `again`; it goes before the original one.';
-- The steps of a sequence that have not begun: one row each, so that a long sequence costs the same
-- for every step.

create table perdure.step (
  parent_id bigint,
  position int,
  item jsonb not null,
  primary key (parent_id, position)
) with (autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.step is 'Steps of waiting sequences that have not begun, as items.';
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
-- Room: parked. A parent waits for its children, for the step of its sequence or for its finalize;
-- a sleeper waits for wake(). Counters only: what is large stands in parked and step, since this
-- row is updated at every child's end.

create table perdure.waiting (
  id bigint primary key,
  since timestamptz not null,
  started_at timestamptz,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  generation int not null,
  active int not null,
  step int,
  worker_id int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  is_keyed boolean not null,
  is_fail_fast boolean not null default false,
  has_failed boolean not null default false,
  phase text not null,
  task text not null,
  constraint phase_is_known check (phase in ('sleep', 'children', 'steps', 'finalize')),
  constraint active_is_not_negative check (active >= 0),
  constraint sleeper_has_no_children check (phase <> 'sleep' or (active = 0 and generation = 0)),
  constraint parent_has_a_generation check (phase = 'sleep' or generation > 0),
  constraint steps_and_finalize_go_one_at_a_time
  check (phase not in ('steps', 'finalize') or active <= 1),
  constraint step_is_known_iff_in_steps check ((step is not null) = (phase = 'steps'))
) with (
  fillfactor = 50, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

comment on table perdure.waiting is
'Room of parked executions: status sleeping, waiting_for_children or waiting_for_finalize.';
comment on column perdure.waiting.generation is
'Which parking of this execution it is; only children of the same generation count.';
comment on column perdure.waiting.active is
'Children (or step, or finalize) that have not told yet.';
comment on column perdure.waiting.step is 'Position of the step that runs.';
comment on column perdure.waiting.has_failed is 'A child ended otherwise than completed.';
-- What wake() returns.

create type perdure.woken as (
  id bigint,
  status text,
  output jsonb,
  error jsonb,
  is_woken boolean
);

comment on type perdure.woken is
'Outcome of a sleeper; is_woken is false where it had ended before the call.';
-- One row for each registered process. It proves itself by its incarnation, a secret that no view
-- shows, and lives as long as its session holds the advisory lock (config.lock_namespace, id).

create table perdure.worker (
  id int generated always as identity primary key,
  incarnation uuid not null unique default gen_random_uuid(),
  registered_at timestamptz not null,
  lost_at timestamptz,
  least_call bigint not null default 0,
  name text not null,
  queues text[] not null,
  tasks text[],
  info jsonb,
  constraint worker_has_a_name check (perdure._is_name(name)),
  constraint worker_serves_a_queue check (cardinality(queues) > 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.worker is 'Registered workers. An incarnation is never used again.';
comment on column perdure.worker.lost_at is
'Since when a sweep finds its session lock free; after config.worker_grace its work is recovered.';
comment on column perdure.worker.least_call is
'Exchanges with a lower call number are refused: they were sent before the last resume.';
comment on column perdure.worker.tasks is 'Task names that it runs; null for all.';
-- Ranges of the optional fields, and which of them exclude one another.

create or replace function perdure._checked_options(
  p perdure._item, p_item jsonb, p_now timestamptz
) returns perdure._item
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p.max_attempts not between 1 and 1000 then
    p.code := 'QD024';
    p.message := format('max_attempts is 1 to 1000, got %s', p.max_attempts);
  elsif p.max_crashes not between 0 and 1000 then
    p.code := 'QD024';
    p.message := format('max_crashes is 0 to 1000, got %s', p.max_crashes);
  elsif not (p.retry_multiplier between 0.1 and 100) then
    p.code := 'QD026';
    p.message := format('retry_multiplier is 0.1 to 100, got %s', p.retry_multiplier);
  elsif not (p.retry_jitter between 0 and 1) then
    p.code := 'QD026';
    p.message := format('retry_jitter is 0 to 1, got %s', p.retry_jitter);
  elsif p.retry_delay_ms > p.retry_max_delay_ms then
    p.code := 'QD023';
    p.message := 'retry_delay is longer than retry_max_delay';
  elsif jsonb_typeof(p.headers) <> 'object' then
    p.code := 'QD021';
    p.message := 'headers have to be a JSON object';
  elsif p_item -> 'delay' <> 'null' and p_item -> 'run_at' <> 'null' then
    p.code := 'QD026';
    p.message := 'delay and run_at exclude each other';
  elsif p.start_at > p_now + interval '3650 days' or p.start_at = '-infinity' then
    p.code := 'QD023';
    p.message := format('run_at is no moment within ten years: %s', p.start_at);
  elsif p.deadline_at = 'infinity' then
    p.code := 'QD023';
    p.message := 'the deadline is never: leave it out';
  elsif p.deadline_at <= p_now then
    p.code := 'QD025';
    p.message := format('the deadline is in the past: %s', p.deadline_at);
  elsif p.deadline_at <= p.start_at then
    p.code := 'QD025';
    p.message := format('the deadline is before the start: %s', p.deadline_at);
  elsif exists (
    select from unnest(p.tags) as t (tag) where perdure._is_name(t.tag) is not true
  ) then
    p.code := 'QD020';
    p.message := 'a tag has 1 to 255 characters and no control characters';
  end if;
  return p;
end
$$;

comment on function perdure._checked_options(perdure._item, jsonb, timestamptz) is
'The same options, with code and message where a value is out of its range.';
-- An execution ended (or gives up its place): its keys lapse as they were told to, and nothing is
-- left to time out. A row of deadline that is locked is being worked off by expire_deadlines, which
-- deletes it itself: waiting for it here could go round in a circle.

create or replace function perdure._forget(p_keyed bigint[], p_timed bigint[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  if p_keyed is not null then
    delete from perdure.key as k where k.id = any(p_keyed) and k.keep_ms = 0;
    update perdure.key as k
    set until = p_now + k.keep_ms * interval '1 millisecond'
    where k.id = any(p_keyed) and k.keep_ms > 0;
  end if;
  if p_timed is not null then
    delete from perdure.deadline as d
    where d.id = any(array(
      select x.id from perdure.deadline as x where x.id = any(p_timed) for update skip locked
    ));
  end if;
end
$$;

comment on function perdure._forget(bigint[], bigint[], timestamptz) is
'Releases the keys and deadlines of ended executions; null for none.';
-- Resolved items -> ready, scheduled or waiting (sleepers). The one place where executions begin.
-- Children come with their parent's place; only the transaction that moves or holds the parent's
-- room row may call it for them.

create or replace function perdure._insert(
  p_items perdure._item[],
  p_now timestamptz,
  p_parent_id bigint default null,
  p_generation int default null,
  p_first_position int default null
) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_parent perdure.execution;
begin
  if p_parent_id is not null then
    select e.* into v_parent from perdure.execution as e where e.id = p_parent_id;
  end if;
  with item as (
    select
      i.*,
      -- a redriven parent outlives the deadline that it was given
      least(
        i.deadline_at, case when v_parent.deadline_at > p_now then v_parent.deadline_at end
      ) as until,
      p_first_position + (i.ordinality - 1)::int as position
    from unnest(p_items) with ordinality as i
  ), fact as (
    insert into perdure.execution (
      id, parent_id, root_id, created_at, start_at, deadline_at, timeout_ms, retry_multiplier,
      retry_jitter, retry_delay_ms, retry_max_delay_ms, parent_generation, position, max_attempts,
      max_crashes, priority, is_linear, is_sleeping, is_finalize, task, queue, key, key_scope,
      input, headers, tags
    )
    select
      i.id, p_parent_id, coalesce(v_parent.root_id, i.id), p_now, i.start_at, i.until, i.timeout_ms,
      i.retry_multiplier, i.retry_jitter, i.retry_delay_ms, i.retry_max_delay_ms, p_generation,
      i.position, i.max_attempts, i.max_crashes, i.priority, i.is_linear, i.is_sleeping,
      p_parent_id is not null and p_first_position is null, i.task, i.queue, i.key, i.key_scope,
      i.input, i.headers, i.tags
    from item as i
  ), due as (
    insert into perdure.ready (
      id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
      bytes, priority, is_keyed, queue, task
    )
    select
      i.id, i.start_at, i.until, p_parent_id, p_generation, 0, 0, 0, 0, pg_column_size(i.input),
      i.priority, i.key is not null, i.queue, i.task
    from item as i
    where not i.is_sleeping and i.start_at <= p_now
  ), later as (
    insert into perdure.scheduled (
      id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
      bytes, priority, is_keyed, queue, task
    )
    select
      i.id, i.start_at, i.until, p_parent_id, p_generation, 0, 0, 0, 0, pg_column_size(i.input),
      i.priority, i.key is not null, i.queue, i.task
    from item as i
    where not i.is_sleeping and i.start_at > p_now
  ), asleep as (
    insert into perdure.waiting (
      id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, token,
      attempts, crashes, iteration, is_keyed, phase, task
    )
    select
      i.id, p_now, p_now, i.until, p_parent_id, p_generation, 0, 0, 0, 0, 0, 0, true, 'sleep',
      i.task
    from item as i
    where i.is_sleeping
  )
  insert into perdure.deadline (id, at)
  select
    i.id,
    case
      when i.is_sleeping then least(i.until, i.start_at + i.timeout_ms * interval '1 millisecond')
      else i.until
    end
  from item as i
  where i.until is not null or (i.is_sleeping and i.timeout_ms is not null);
end
$$;

comment on function perdure._insert(perdure._item[], timestamptz, bigint, int, int) is
'Writes resolved items as executions. Children: parent, its generation and the first position; a
parent without a position makes a finalize.';
-- An item with a key: it takes the key, or stands for the execution that has it, or is refused.

create or replace function perdure._keyed(
  p_item perdure._item, p_batch perdure._item[], p_now timestamptz
) returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_holder bigint := perdure._take_key(p_item, p_now);
  v_is_same boolean;
begin
  if v_holder = p_item.id then
    return p_item;
  end if;
  select h.task = p_item.task and h.input = p_item.input into v_is_same
  from (
    select e.task, e.input from perdure.execution as e where e.id = v_holder
    union all
    -- an earlier item of this very batch, not yet written
    select b.task, b.input from unnest(p_batch) as b where b.id = v_holder and not b.is_taken
    limit 1
  ) as h;
  p_item.id := v_holder;
  p_item.is_taken := true;
  if not v_is_same then
    p_item.code := 'QD003';
    p_item.message := format(
      'key %s is held by execution %s, which has another task or input', p_item.key, v_holder
    );
  end if;
  return p_item;
end
$$;

comment on function perdure._keyed(perdure._item, perdure._item[], timestamptz) is
'The item with its key taken; is_taken and the holder''s id where another execution has the key;
code QD003 where that one is another request.';
-- The optional fields of an item, read one by one: whatever is wrong with one is said of that item
-- alone, so a batch never fails for a single bad item. Hence the only exception handler of the
-- enqueue path; an item with nothing but task and input does not come here.

create or replace function perdure._options(p_item jsonb, p_now timestamptz) returns perdure._item
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  c_day constant bigint := 86400000;
  v perdure._item;
  v_field text;
  v_value jsonb;
  v_text text;
  v_ms bigint;
begin
  for v_field, v_value in select f.key, f.value from jsonb_each(p_item) as f loop
    continue when v_field in ('task', 'input') or v_value = 'null';
    v_text := v_value #>> '{}';
    if v_field in ('queue', 'key', 'key_scope', 'key_for', 'retry_backoff') then
      if jsonb_typeof(v_value) <> 'string' then
        v.code := 'QD021';
        v.message := format('%s has to be a string, got %s', v_field, left(v_text, 80));
        return v;
      end if;
    elsif v_field in ('delay', 'timeout', 'retry_delay', 'retry_max_delay', 'run_at', 'deadline')
      and jsonb_typeof(v_value) not in ('number', 'string')
    then
      v.code := 'QD021';
      v.message := format('%s has to be a number of seconds or a string', v_field);
      return v;
    elsif v_field in ('delay', 'timeout', 'retry_delay', 'retry_max_delay') then
      v_ms := perdure._milliseconds(v_value);
      if v_ms < 0 or v_ms > 3650 * c_day
        or (v_field = 'timeout' and v_ms = 0)
        or (v_field in ('retry_delay', 'retry_max_delay') and v_ms > c_day)
      then
        v.code := 'QD023';
        v.message := format('%s is out of range: %s', v_field, v_text);
        return v;
      end if;
    end if;
    case v_field
      when 'queue' then v.queue := v_text;
      when 'key' then v.key := v_text;
      when 'key_scope' then v.key_scope := v_text;
      when 'key_for' then
        v.is_kept_ever := v_text = 'ever';
        v.keep_ms := case
          when v_text not in ('live', 'ever') then perdure._milliseconds(v_value) else 0
        end;
        if v.keep_ms < 0 then
          v.code := 'QD023';
          v.message := format('key_for is live, ever or an interval, got %s', v_text);
          return v;
        end if;
      when 'retry_backoff' then
        v.is_linear := v_text = 'linear';
        if v_text not in ('linear', 'exponential') then
          v.code := 'QD026';
          v.message := format('retry_backoff is exponential or linear, got %s', left(v_text, 80));
          return v;
        end if;
      when 'delay' then v.start_at := p_now + v_ms * interval '1 millisecond';
      when 'timeout' then v.timeout_ms := v_ms;
      when 'retry_delay' then v.retry_delay_ms := v_ms;
      when 'retry_max_delay' then v.retry_max_delay_ms := v_ms;
      when 'run_at' then v.start_at := perdure._moment(v_value, p_now);
      when 'deadline' then v.deadline_at := perdure._moment(v_value, p_now);
      when 'priority' then v.priority := v_text::smallint;
      when 'max_attempts' then v.max_attempts := v_text::smallint;
      when 'max_crashes' then v.max_crashes := v_text::smallint;
      when 'retry_multiplier' then v.retry_multiplier := v_text::double precision;
      when 'retry_jitter' then v.retry_jitter := v_text::double precision;
      when 'sleeping' then v.is_sleeping := v_text::boolean;
      when 'headers' then v.headers := v_value;
      when 'tags' then
        v.tags := array(select t.tag from jsonb_array_elements_text(v_value) as t (tag));
      else
        v.code := 'QD026';
        v.message := format('unknown field %s', left(v_field, 80));
        return v;
    end case;
  end loop;
  return perdure._checked_options(v, p_item, p_now);
exception
  when data_exception then
    v.code := case
      when v_field in ('delay', 'timeout', 'retry_delay', 'retry_max_delay', 'key_for') then 'QD023'
      when v_field in ('max_attempts', 'max_crashes') then 'QD024'
      when v_field in ('priority', 'retry_multiplier', 'retry_jitter') then 'QD026'
      else 'QD021'
    end;
    v.message := format('%s is not acceptable: %s', v_field, left(v_text, 80));
    return v;
end
$$;

comment on function perdure._options(jsonb, timestamptz) is
'The optional fields of an item, typed; null where not given; code and message where one is
refused.';
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
        when k.is_sleeping and k.own_key is null then 'QD026'
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
            from unnest(array[j.task, j.queue, j.own_key, j.key_scope]) as n (name)
            where not perdure._is_name(n.name)
            limit 1
          ))
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
      j.keep_ms, j.is_kept_ever, j.headers, j.tags
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
-- Claims (scope, key) for a new execution, or finds who has it. The insert waits for a concurrent
-- holder's commit; what it left is read in a new statement, since the first one cannot see it.

create or replace function perdure._take_key(p_item perdure._item, p_now timestamptz)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_holder perdure.key;
begin
  for v_try in 1 .. 100 loop  -- each turn lost a race against another transaction's commit
    insert into perdure.key (scope, key, id, keep_ms)
    values (
      p_item.key_scope, p_item.key, p_item.id,
      case when not p_item.is_kept_ever then p_item.keep_ms end
    )
    on conflict do nothing;
    if found then
      return p_item.id;
    end if;
    select k.* into v_holder
    from perdure.key as k
    where k.scope = p_item.key_scope and k.key = p_item.key;
    if v_holder.until <= p_now then
      delete from perdure.key as k
      where k.scope = v_holder.scope and k.key = v_holder.key and k.id = v_holder.id
        and k.until <= p_now;  -- a redrive may have taken it again
    elsif v_holder.id is not null then
      return v_holder.id;
    end if;
  end loop;
  raise exception 'key % of % stayed contended', p_item.key, p_item.key_scope
    using errcode = 'serialization_failure', hint = 'Try again.';
end
$$;

comment on function perdure._take_key(perdure._item, timestamptz) is
'Id of the execution that holds the item''s key: the item''s own id when it was free.';
-- Judges a whole list of children, and takes their keys, before anything of them is written.

create or replace function perdure._accept_children(
  p_children jsonb, p_finalize jsonb, p_is_sequence boolean, p_now timestamptz,
  out items perdure._item[], out code text, out message text
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_finalize perdure._item;
  v_bad record;
  v_at int;
  v_holder bigint;
begin
  items := perdure._resolve(p_children, p_now);
  select i.ordinality - 1 as position, i.code, i.message, i.task into v_bad
  from unnest(items) with ordinality as i
  where i.code is not null
  -- a step that sleeps may be given its key by the step before it
    and not (
      p_is_sequence and i.ordinality > 1 and i.code = 'QD026' and i.is_sleeping and i.key is null
    )
  order by i.ordinality
  limit 1;
  if v_bad.code is not null then
    code := 'QD027';
    message := format(
      'child %s (%s): %s [%s]', v_bad.position, v_bad.task, v_bad.message, v_bad.code
    );
    return;
  end if;
  if p_finalize is not null then
    v_finalize := (perdure._resolve(jsonb_build_array(p_finalize), p_now))[1];
    if v_finalize.code is not null or v_finalize.is_sleeping or v_finalize.key is not null then
      code := 'QD027';
      message := 'finalize: ' || coalesce(v_finalize.message, 'it cannot sleep or have a key');
      return;
    end if;
  end if;
  if p_is_sequence then
    items := items[1:1];
  end if;
  for v_at in
    select i.ordinality
    from unnest(items) with ordinality as i
    where i.key is not null
    order by i.key_scope, i.key, i.ordinality
  loop
    v_holder := perdure._take_key(items[v_at], p_now);
    if v_holder <> items[v_at].id then
      code := 'QD027';
      message := format(
        'child %s (%s): key %s is held by execution %s [QD003]',
        v_at - 1, items[v_at].task, items[v_at].key, v_holder
      );
      -- the keys that its siblings took
      delete from perdure.key as k
      where k.id = any(array(select i.id from unnest(items) as i where i.key is not null));
      return;
    end if;
  end loop;
end
$$;

comment on function perdure._accept_children(jsonb, jsonb, boolean, timestamptz) is
'The resolved children to begin with (of a sequence the first step only), their keys taken; or code
QD027 and the first reason against them.';
-- _begin_finalize: waiting -> waiting
-- And the finalize of a parent whose children have all ended: new -> ready.
-- Locks: none but new rows; the caller holds the parent's waiting row. Its input names the parent;
-- the children's outputs are read from there, not copied, so their sum has no limit.

create or replace function perdure._begin_finalize(
  p_parent perdure.waiting, p_finalize jsonb, p_now timestamptz
) returns text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_item perdure._item;
begin
  v_item := (perdure._resolve(
    jsonb_build_array(
      p_finalize || jsonb_build_object(
        'input', jsonb_build_object('parent', p_parent.id, 'generation', p_parent.generation)
      )
    ), p_now
  ))[1];
  if v_item.code is not null then
    return 'finalize: ' || v_item.message;
  end if;
  perform perdure._insert(array[v_item], p_now, p_parent.id, p_parent.generation);
  update perdure.waiting as w
  set phase = 'finalize', step = null, active = 1
  where w.id = p_parent.id;
  delete from perdure.step as s where s.parent_id = p_parent.id;
  return null;
end
$$;

comment on function perdure._begin_finalize(perdure.waiting, jsonb, timestamptz) is
'Begins the finalize execution; the reason, where it cannot begin.';
-- The head of one queue, locked: rows of ready in order, SKIP LOCKED, up to a number and to a byte
-- budget (but at least one).

create or replace function perdure._candidates(
  p_queue text, p_tasks text[], p_max int, p_budget bigint, p_after jsonb,
  out ids bigint[], out bytes bigint
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_priority smallint := coalesce((p_after ->> 0)::smallint, -32768);
  v_start timestamptz := coalesce((p_after ->> 1)::timestamptz, '-infinity');
  v_id bigint := coalesce((p_after ->> 2)::bigint, 0);
begin
  select
    coalesce(array_agg(s.id order by s.priority, s.start_at, s.id), '{}'),
    coalesce(sum(s.bytes), 0)
  into ids, bytes
  from (
    select c.*, sum(c.bytes) over (order by c.priority, c.start_at, c.id) - c.bytes as before
    from (
      select r.id, r.priority, r.start_at, r.bytes
      from perdure.ready as r
      where r.queue = p_queue
        and not r.is_aside
        and (r.priority, r.start_at, r.id) > (v_priority, v_start, v_id)
        and (p_tasks is null or r.task = any(p_tasks))
      order by r.priority, r.start_at, r.id
      limit p_max
      for update skip locked
    ) as c
  ) as s
  where s.before < p_budget;
end
$$;

comment on function perdure._candidates(text, text[], int, bigint, jsonb) is
'Ids at the head of a queue for tasks that the caller knows (null: all), locked for a claim.';
-- One child with its outcome.

create or replace function perdure._child(
  p_parent_id bigint, p_generation int, p_position int,
  out id bigint, out task text, out status text, out output jsonb, out error jsonb
)
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select e.id, e.task, f.status, f.output, f.error
  from (
    -- a branch for each, so that either condition can bound the index
    select s.id, s.task
    from perdure.execution as s
    where s.parent_id = p_parent_id
      and s.parent_generation = p_generation
      and s.position = p_position
    union all
    select s.id, s.task
    from perdure.execution as s
    where p_position is null
      and s.parent_id = p_parent_id
      and s.parent_generation = p_generation
      and s.position is null
  ) as e
  left join lateral (
    select x.status, x.output, x.error from perdure.finished as x where x.id = e.id
  ) as f on true
$$;

comment on function perdure._child(bigint, int, int) is
'The child at a position, or the finalize execution where p_position is null.';
-- _children_finished: waiting -> any
-- The next step, or finalize, or an end.
-- Locks: none but new rows; the caller holds the parent's waiting row, whose counter is 0. Whatever
-- cannot be built ends this parent alone.

create or replace function perdure._children_finished(
  p_parent perdure.waiting, p_now timestamptz, out begun int, out telling perdure._telling
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_parked perdure.parked;
  v_task text;
  v_status text;
  v_output jsonb;
  v_error jsonb;
  v_reason text;
begin
  begun := 1;
  select p.* into v_parked from perdure.parked as p where p.id = p_parent.id;
  if p_parent.phase in ('steps', 'finalize') then
    select c.task, c.status, c.output, c.error into v_task, v_status, v_output, v_error
    from perdure._child(p_parent.id, p_parent.generation, p_parent.step) as c;
  end if;
  if p_parent.phase = 'steps' and v_status = 'completed' and exists (
    select from perdure.step as s where s.parent_id = p_parent.id
  ) then
    v_reason := perdure._next_step(p_parent, v_output, p_now);
    if v_reason is null then
      return;
    end if;
  elsif p_parent.phase <> 'finalize' and v_parked.finalize is not null then
    v_reason := perdure._begin_finalize(p_parent, v_parked.finalize, p_now);
    if v_reason is null then
      return;
    end if;
  end if;
  begun := 0;
  if v_reason is not null then
    v_status := 'failed';
    v_error := jsonb_build_object(
      'type', 'invalid_child', 'code', 'QD027', 'message', v_reason, 'retryable', false
    );
  elsif p_parent.phase = 'finalize' and v_status is distinct from 'completed' then
    v_status := 'finalize_failed';
  elsif p_parent.phase = 'steps' and v_status is distinct from 'completed' then
    v_error := jsonb_build_object(
      'type', 'child_failed', 'retryable', false, 'message', format(
        'step %s (%s) %s: %s', p_parent.step, v_task, v_status, left(v_error ->> 'message', 10000)
      )
    );
    v_status := 'finalize_failed';
  elsif p_parent.phase = 'children' and p_parent.is_fail_fast and p_parent.has_failed then
    v_status := 'failed';
    v_error := jsonb_build_object(
      'type', 'child_failed', 'message', 'a child did not complete', 'retryable', false
    );
  elsif p_parent.phase = 'children' then
    v_status := 'completed';
    v_output := v_parked.output;
  end if;
  telling := perdure._end_parent(p_parent, v_status, v_output, v_error, p_now);
end
$$;

comment on function perdure._children_finished(perdure.waiting, timestamptz) is
'What comes after the last child of a parent: its next step, its finalize, or its end.';
-- _claim: ready -> running
-- Locks: the worker's row (by the caller), then due rows of ready, in order, SKIP LOCKED.
-- One probe per queue keeps the index order; a cursor lets a claim start where the last one ended
-- instead of stepping over dead or foreign index entries again. Only ids are collected first: the
-- rows are moved by id, so no plan can turn the claim into a join over the room.

create or replace function perdure._claim(
  p_worker perdure.worker, p_queues text[], p_tasks text[], p_max int, p_after jsonb default null
) returns table (
  id bigint, token int, task text, attempt int, input jsonb, timeout_ms bigint, extra jsonb,
  queue text, priority smallint, start_at timestamptz, bytes int, is_last boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := perdure._clock();
  v_budget bigint := (select c.claim_bytes from perdure.config as c);
  v_left int := p_max;
  v_queue text;
  v_ids bigint[];
begin
  perform perdure._promote(v_now, greatest(p_max, 1000));
  foreach v_queue in array p_queues loop
    exit when v_left <= 0 or v_budget <= 0;
    select c.ids, v_budget - c.bytes into v_ids, v_budget
    from perdure._candidates(v_queue, p_tasks, v_left, v_budget, p_after -> v_queue) as c;
    if exists (select from perdure.closing as c where c.kind = 'end') then
      v_ids := array(select i.id from unnest(v_ids) as i (id) where not perdure._is_doomed(i.id));
    end if;
    continue when cardinality(v_ids) = 0;
    v_now := perdure._clock();  -- after the candidates were seen: none of them is younger
    return query
    with taken as (
      delete from perdure.ready as r where r.id = any(v_ids) returning r.*
    ), found as (
      select t.*, e.id is not null as has_facts, e.timeout_ms, e.is_finalize, e.root_id, e.position,
        e.key, e.headers, e.tags, e.input as first_input, a.error
      from taken as t
      left join lateral (
        select x.* from perdure.execution as x where x.id = t.id
      ) as e on true
      left join lateral (
        select y.error
        from perdure.attempt as y
        where t.attempts + t.crashes > 0 and y.execution_id = t.id
        order by y.token desc
        limit 1
      ) as a on true
    ), leased as (
      insert into perdure.running (
        id, started_at, expires_at, deadline_at, parent_id, parent_generation, worker_id, token,
        attempts, crashes, iteration, is_keyed, task, input
      )
      select
        f.id, v_now, v_now + f.timeout_ms * interval '1 millisecond', f.deadline_at, f.parent_id,
        f.parent_generation, p_worker.id, f.token + 1, f.attempts, f.crashes, f.iteration,
        f.is_keyed, f.task, f.input
      from found as f
      where f.has_facts
    ), broken as (
      -- its facts are gone: it ends alone, and its parent is told later
      insert into perdure.finished (
        id, finished_at, token, attempts, crashes, iteration, status, error
      )
      select f.id, v_now, f.token + 1, f.attempts, f.crashes, f.iteration, 'failed',
        jsonb_build_object(
          'type', 'no_facts', 'message', 'the row in perdure.execution is missing',
          'retryable', false
        )
      from found as f
      where not f.has_facts
    ), owed as (
      insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
      select 'tell', f.parent_id, f.parent_generation, 1, 1, v_now
      from found as f
      where not f.has_facts and f.parent_id is not null
    )
    select
      f.id, f.token + 1, f.task, f.attempts + 1, coalesce(f.input, f.first_input), f.timeout_ms,
      case
        when f.parent_id is null and f.key is null and f.headers is null and f.tags is null
          and f.attempts + f.crashes + f.iteration = 0 and f.deadline_at is null
          and f.queue = 'default'
          then null
        else perdure._extra(
          f.id, f.queue, f.parent_id, f.root_id, f.position, f.is_finalize, f.iteration, f.crashes,
          f.key, f.deadline_at, f.headers, f.tags, f.error
        )
      end,
      f.queue, f.priority, f.start_at, f.bytes,
      f.id = v_ids[cardinality(v_ids)]
    from found as f
    where f.has_facts
    order by f.priority, f.start_at, f.id;
    v_left := v_left - cardinality(v_ids);
  end loop;
end
$$;

comment on function perdure._claim(perdure.worker, text[], text[], int, jsonb) is
'Leases up to p_max due executions to the worker, queue by queue in the order given. p_after:
{queue: [priority, start_at, id]} of the last one of the last claim, or null to begin at the head.';
-- _close_batch: closing -> gone
-- Locks: rows of closing, SKIP LOCKED; room rows, SKIP LOCKED. What it still cannot do it writes
-- down again.

create or replace function perdure._close_batch(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_limit int := (select c.cancel_limit from perdure.config as c);
  v_debts perdure.closing[];
  v_debt perdure.closing;
  v_paid record;
begin
  with gone as (
    delete from perdure.closing as c
    where c.id = any(array(
      select x.id
      from perdure.closing as x
      where x.due_at <= p_now
      order by x.id
      limit p_max
      for update skip locked
    ))
    returning c.*
  )
  select array_agg(row(g.*)::perdure.closing order by g.id) into v_debts from gone as g;
  if v_debts is null then
    amount := 0;
    return;
  end if;
  foreach v_debt in array v_debts loop  -- bounded by p_max
    if v_debt.kind in ('tell', 'recount') then  -- a recount has no amount
      tellings := tellings || row(
        v_debt.execution_id, v_debt.generation, v_debt.amount, v_debt.failures
      )::perdure._telling;
    else
      select p.* into v_paid from perdure._end_owed(v_debt, greatest(v_limit, 0), p_now) as p;
      v_limit := v_limit - v_paid.amount;
      tellings := tellings || v_paid.tellings;
    end if;
  end loop;
  amount := cardinality(v_debts);
end
$$;

comment on function perdure._close_batch(int, timestamptz) is
'Takes up to p_max debts out of closing; amount: how many.';
-- _crash: running -> any
-- Ready again, or failed when the crash budget is used up.
-- Locks: running rows of the given workers, SKIP LOCKED.

create or replace function perdure._crash(
  p_workers int[], p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_rows perdure.running[];
begin
  with gone as (
    delete from perdure.running as r
    where r.id = any(array(
      select x.id
      from perdure.running as x
      where x.worker_id = any(p_workers)
      order by x.worker_id, x.expires_at
      limit p_max
      for update skip locked
    ))
    returning r.*
  )
  select array_agg(row(g.*)::perdure.running order by g.id) into v_rows from gone as g;
  amount := coalesce(cardinality(v_rows), 0);
  tellings := perdure._revoke(v_rows, 'crashed', 'the worker that ran it died', p_now);
end
$$;

comment on function perdure._crash(int[], int, timestamptz) is
'Takes up to p_max leases from these workers as crashed.';
-- _decrement: waiting -> any
-- One parent, told once.
-- Locks: its waiting row; who is not patient leaves a locked one to closing. A counter that does
-- not match is reported and set from the children: damage must not fail the batch that found it.

create or replace function perdure._decrement(
  p_told perdure._telling, p_is_patient boolean, p_now timestamptz,
  out begun int, out telling perdure._telling
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_parent perdure.waiting;
  v_had_failed boolean;
  v_step record;
  v_amount int := p_told.amount;
begin
  begun := 0;
  if p_is_patient then
    select w.* into v_parent
    from perdure.waiting as w
    where w.id = p_told.parent_id and w.generation = p_told.generation
    for no key update;
  else
    select w.* into v_parent
    from perdure.waiting as w
    where w.id = p_told.parent_id and w.generation = p_told.generation
    for no key update skip locked;
    insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
    select
      case when p_told.amount is null then 'recount' else 'tell' end, w.id, w.generation,
      p_told.amount, p_told.failures, p_now + interval '100 milliseconds'
    from perdure.waiting as w
    where v_parent.id is null and w.id = p_told.parent_id and w.generation = p_told.generation;
  end if;
  if v_parent.id is null then
    return;
  end if;
  if p_told.amount is null or v_parent.active < p_told.amount then
    v_amount := v_parent.active - perdure._live_children(v_parent);
    raise warning 'the counter of execution % was %, its live children are %; repaired',
      v_parent.id, v_parent.active, v_parent.active - v_amount;
  end if;
  v_had_failed := v_parent.has_failed;
  if v_amount <> 0 or p_told.failures > 0 then
    update perdure.waiting as w
    set active = w.active - v_amount, has_failed = w.has_failed or p_told.failures > 0
    where w.id = v_parent.id
    returning w.* into v_parent;
  end if;
  if v_parent.active = 0 then
    select c.* into v_step from perdure._children_finished(v_parent, p_now) as c;
    begun := v_step.begun;
    telling := v_step.telling;
  elsif v_parent.is_fail_fast and v_parent.has_failed and not v_had_failed then
    insert into perdure.closing (kind, execution_id, generation, position, status, error, due_at)
    values (
      'end', v_parent.id, v_parent.generation, -1, 'cancelled',
      jsonb_build_object(
        'type', 'cancelled', 'message', 'a sibling failed and the parent fails fast',
        'retryable', false
      ),
      p_now
    );
    begun := 1;
  end if;
end
$$;

comment on function perdure._decrement(perdure._telling, boolean, timestamptz) is
'Applies one telling. begun: executions that began, or work left in closing; telling: what the
parent, if it ended, has to tell its own parent.';
-- _end: any -> finished
-- Any live status to cancelled or timed_out, with the whole live subtree.
-- Locks: the execution's room row, for which it may wait, since nothing is held yet; then room rows
-- of descendants, SKIP LOCKED. An execution that moves is followed from room to room, a fresh
-- snapshot at each look; if it cannot be caught, the request stays in closing.

create or replace function perdure._end(
  p_id bigint, p_status text, p_error jsonb, p_now timestamptz,
  out result text, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ended record;
  v_below record;
begin
  for v_try in 1 .. 20 loop
    -- wait for whoever moves it
    perform from perdure.ready as r where r.id = p_id for update;
    perform from perdure.scheduled as s where s.id = p_id for update;
    perform from perdure.running as r where r.id = p_id for update;
    perform from perdure.waiting as w where w.id = p_id for update;
    select l.* into v_ended from perdure._end_live(array[p_id], p_status, p_error, p_now) as l;
    if v_ended.ended is not null then
      result := p_status;
      tellings := v_ended.tellings;
      if v_ended.parents is not null then
        select d.* into v_below
        from perdure._end_descendants(
          v_ended.parents, null, null,
          jsonb_build_object(
            'type', 'cancelled', 'retryable', false, 'message',
            format('execution %s ended %s: %s', p_id, p_status, p_error ->> 'message')
          ),
          (select c.cancel_limit from perdure.config as c), p_now
        ) as d;
        tellings := tellings || v_below.tellings;
      end if;
      return;
    elsif exists (select from perdure.finished as f where f.id = p_id) then
      result := 'finished';
      return;
    end if;
  end loop;
  insert into perdure.closing (kind, execution_id, status, error, due_at)
  values ('end', p_id, p_status, p_error, p_now);
  result := 'pending';
end
$$;

comment on function perdure._end(bigint, text, jsonb, timestamptz) is
'Ends one execution from outside. result: the status given, finished (it had ended) or pending (left
to closing); tellings: for decrement_parents().';
-- _end_descendants: any -> finished
-- Every live descendant of ended executions is cancelled.
-- Locks: room rows, SKIP LOCKED. A node is out of its room before its children are read, in a new
-- statement, so a node that spawns meanwhile cannot leave live leaves. Bounded by p_limit: what is
-- left over, and what was locked by others, goes to closing.

create or replace function perdure._end_descendants(
  p_nodes bigint[], p_generation int, p_position int, p_error jsonb, p_limit int,
  p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_nodes bigint[] := p_nodes;
  v_node bigint;
  v_generation int := p_generation;
  v_position int := p_position;
  v_children bigint[];
  v_ended record;
begin
  amount := 0;
  while cardinality(v_nodes) > 0 and amount < p_limit loop
    v_node := v_nodes[1];
    v_generation := coalesce(v_generation, perdure._next_generation(v_node) - 1);
    select array_agg(c.id), max(c.position) into v_children, v_position
    from (
      select e.id, e.position
      from perdure.execution as e
      where e.parent_id = v_node
        and e.parent_generation = v_generation
        and e.position > coalesce(v_position, -1)
      order by e.parent_id, e.parent_generation, e.position
      limit least(1000, p_limit - amount)
    ) as c;
    if v_children is null then  -- past the last child: its finalize
      v_children := array(
        select e.id
        from perdure.execution as e
        where e.parent_id = v_node and e.parent_generation = v_generation and e.position is null
          -- a parent that failed fast and goes on must not lose it
          and not exists (select from perdure.waiting as w where w.id = v_node)
      );
      v_nodes := v_nodes[2:];
      v_generation := null;
      v_position := null;
      continue when cardinality(v_children) = 0;
    end if;
    select l.* into v_ended from perdure._end_live(v_children, 'cancelled', p_error, p_now) as l;
    amount := amount + cardinality(v_children);
    v_nodes := v_nodes || v_ended.parents;
    tellings := tellings || v_ended.tellings;
    insert into perdure.closing (kind, execution_id, status, error, due_at)
    select 'end', c.id, 'cancelled', p_error, p_now
    from unnest(v_children) as c (id)
    where not (c.id = any(coalesce(v_ended.ended, '{}')))
      and not exists (select from perdure.finished as f where f.id = c.id);
  end loop;
  insert into perdure.closing (
    kind, execution_id, generation, position, status, error, due_at
  )
  select
    'end', n.id, case when n.ordinality = 1 then v_generation end,
    case when n.ordinality = 1 then v_position end, 'cancelled', p_error, p_now
  from unnest(v_nodes) with ordinality as n (id);
end
$$;

comment on function perdure._end_descendants(bigint[], int, int, jsonb, int, timestamptz) is
'Cancels the live descendants of p_nodes (of the first one: children of p_generation after
p_position), about p_limit of them. amount: children looked at; tellings: for decrement_parents().';
-- _end_live: any -> finished
-- Whatever lives is cancelled or timed_out, from outside.
-- Locks: room rows, SKIP LOCKED: it may be called by one who holds an ancestor's row. One statement
-- per room, each with a fresh snapshot, so an execution that moves meanwhile may be missed: the
-- caller looks again, or leaves it to closing. The recorded token is one more than any lease had,
-- so a late report is told that its lease is gone.

create or replace function perdure._end_live(
  p_ids bigint[], p_status text, p_error jsonb, p_now timestamptz,
  out ended bigint[], out parents bigint[], out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_gone perdure.running[];
  v_part perdure.running[];
begin
  with gone as (
    delete from perdure.ready as r
    where r.id = any(array(
      select x.id from perdure.ready as x where x.id = any(p_ids) for update skip locked
    ))
    returning r.*
  )
  select array_agg(row(
    g.id, null, null, g.deadline_at, g.parent_id, g.parent_generation, null, g.token, g.attempts,
    g.crashes, g.iteration, g.is_keyed, g.task, null
  )::perdure.running)
  into v_gone
  from gone as g;

  with gone as (
    delete from perdure.scheduled as s
    where s.id = any(array(
      select x.id from perdure.scheduled as x where x.id = any(p_ids) for update skip locked
    ))
    returning s.*
  )
  select array_agg(row(
    g.id, null, null, g.deadline_at, g.parent_id, g.parent_generation, null, g.token, g.attempts,
    g.crashes, g.iteration, g.is_keyed, g.task, null
  )::perdure.running)
  into v_part
  from gone as g;
  v_gone := v_gone || v_part;

  with gone as (
    delete from perdure.running as r
    where r.id = any(array(
      select x.id from perdure.running as x where x.id = any(p_ids) for update skip locked
    ))
    returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_part from gone as g;
  v_gone := v_gone || v_part;

  with gone as (
    delete from perdure.waiting as w
    where w.id = any(array(
      select x.id from perdure.waiting as x where x.id = any(p_ids) for update skip locked
    ))
    returning w.*
  )
  select
    array_agg(row(
      -- a sleeper's time-out is a row in deadline too: let it be forgotten
      g.id, g.started_at, null, coalesce(g.deadline_at, g.since), g.parent_id, g.parent_generation,
      g.worker_id, g.token, g.attempts, g.crashes, g.iteration, g.is_keyed, g.task, null
    )::perdure.running),
    array_agg(g.id) filter (where g.phase <> 'sleep')
  into v_part, parents
  from gone as g;
  v_gone := v_gone || v_part;
  if v_gone is null then
    return;
  end if;

  insert into perdure.finished (
    id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, error
  )
  select
    g.id, g.started_at, p_now, g.worker_id, g.token + 1,
    g.attempts + (g.worker_id is not null)::int,  -- a worker had begun the next one
    g.crashes, g.iteration, p_status, p_error
  from unnest(v_gone) as g;
  ended := array(select g.id from unnest(v_gone) as g);
  if parents is not null then
    delete from perdure.parked as p where p.id = any(parents);
    delete from perdure.step as s where s.parent_id = any(parents);
  end if;
  perform perdure._forget(
    (select array_agg(g.id) from unnest(v_gone) as g where g.is_keyed),
    (select array_agg(g.id) from unnest(v_gone) as g where g.deadline_at is not null),
    p_now
  );
  select array_agg(t) into tellings
  from (
    select row(g.parent_id, g.parent_generation, count(*), count(*))::perdure._telling as t
    from unnest(v_gone) as g
    where g.parent_id is not null
    group by g.parent_id, g.parent_generation
  ) as x;
end
$$;

comment on function perdure._end_live(bigint[], text, jsonb, timestamptz) is
'Ends those of the executions that it finds in a room and can lock. ended: their ids; parents: those
of them that had children; tellings: what their parents have to be told.';
-- _end_owed: closing -> gone
-- One debt of kind `end`: the execution itself, if it lives, and then its descendants.
-- Locks: room rows, SKIP LOCKED. A debt with a position is about the children only: the execution
-- has ended, or (fail_fast) it waits and stays.

create or replace function perdure._end_owed(
  p_debt perdure.closing, p_limit int, p_now timestamptz,
  out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_ended record;
  v_below record;
  v_nodes bigint[] := array[p_debt.execution_id];
begin
  amount := 1;
  if p_debt.generation is null
    and not exists (select from perdure.finished as f where f.id = p_debt.execution_id)
  then
    select l.* into v_ended
    from perdure._end_live(v_nodes, p_debt.status, p_debt.error, p_now) as l;
    v_nodes := v_ended.parents;
    tellings := v_ended.tellings;
    if v_ended.ended is null and exists (
      select from perdure.execution as e where e.id = p_debt.execution_id
    ) and not exists (
      select from perdure.finished as f where f.id = p_debt.execution_id
    ) then  -- still locked by another transaction, or on its way: owe it on
      insert into perdure.closing (kind, execution_id, status, error, due_at)
      values (
        'end', p_debt.execution_id, p_debt.status, p_debt.error, p_now + interval '100 milliseconds'
      );
    end if;
  end if;
  if v_nodes is not null then
    select d.* into v_below
    from perdure._end_descendants(
      v_nodes, p_debt.generation, p_debt.position, p_debt.error, p_limit, p_now
    ) as d;
    amount := amount + v_below.amount;
    tellings := tellings || v_below.tellings;
  end if;
end
$$;

comment on function perdure._end_owed(perdure.closing, int, timestamptz) is
'Works off one debt; amount: executions looked at.';
-- _end_parent: waiting -> finished
-- Locks: none more; the caller holds the waiting row. The one way in which a parked execution ends,
-- so none can forget to tell its parent.

create or replace function perdure._end_parent(
  p_parent perdure.waiting, p_status text, p_output jsonb, p_error jsonb, p_now timestamptz
) returns perdure._telling
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  with gone as (
    delete from perdure.waiting as w where w.id = p_parent.id returning w.*
  )
  insert into perdure.finished (
    id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output,
    error
  )
  select
    g.id, g.started_at, p_now, g.worker_id, g.token, g.attempts + (g.phase <> 'sleep')::int,
    g.crashes, g.iteration, p_status, case when p_status = 'completed' then p_output end,
    case
      when p_status <> 'completed' then coalesce(
        p_error,
        jsonb_build_object('type', 'failed', 'message', 'no error was given', 'retryable', false)
      )
    end
  from gone as g;
  if not found then
    raise exception 'execution % is not waiting', p_parent.id using errcode = 'QD040';
  end if;
  delete from perdure.parked as p where p.id = p_parent.id;
  delete from perdure.step as s where s.parent_id = p_parent.id;
  perform perdure._forget(
    case when p_parent.is_keyed then array[p_parent.id] end,
    case
      when p_parent.deadline_at is not null or p_parent.phase = 'sleep' then array[p_parent.id]
    end,
    p_now
  );
  return case
    when p_parent.parent_id is not null then row(
      p_parent.parent_id, p_parent.parent_generation, 1, (p_status <> 'completed')::int
    )::perdure._telling
  end;
end
$$;

comment on function perdure._end_parent(perdure.waiting, text, jsonb, jsonb, timestamptz) is
'Ends a parked execution; returns what its own parent has to be told (null for a root).';
-- _expire_deadlines: any -> timed_out
-- Any live status, by a deadline or a sleeper's time-out.
-- Locks: one row of deadline after the other, and after each the room rows of its execution and the
-- descendants; all SKIP LOCKED. A row of deadline that it locked it deletes: _forget relies on
-- that.

create or replace function perdure._expire_deadlines(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_id bigint;
  v_ids bigint[];
  v_ended record;
  v_limit int := (select c.cancel_limit from perdure.config as c);
begin
  v_ids := array(
    select d.id
    from perdure.deadline as d
    where d.at <= p_now
    order by d.at, d.id
    limit p_max
  );
  amount := 0;
  foreach v_id in array v_ids loop  -- bounded by p_max
    exit when v_limit <= 0;
    perform from perdure.deadline as d where d.id = v_id for update skip locked;
    continue when not found;
    select t.* into v_ended from perdure._time_out(v_id, p_now, v_limit) as t;
    delete from perdure.deadline as d where d.id = v_id;
    v_limit := v_limit - v_ended.amount;
    tellings := tellings || v_ended.tellings;
    amount := amount + 1;
  end loop;
end
$$;

comment on function perdure._expire_deadlines(int, timestamptz) is
'Ends what is past its moment in deadline: at most p_max, and about config.cancel_limit with their
descendants; amount: how many.';
-- _expire_running: running -> any
-- Leases that are lost: ready, scheduled, or an end.
-- Locks: worker rows, SKIP LOCKED; running rows, SKIP LOCKED.
-- A dead worker's lease uses the crash budget; an overdue attempt counts as timed out.

create or replace function perdure._expire_running(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_overdue perdure.running[];
  v_recovered record;
begin
  v_ids := array(
    select o.id
    from perdure._lease_holders() as h (id)
    cross join lateral (
      select r.id
      from perdure.running as r
      where r.worker_id = h.id and r.expires_at <= p_now
      order by r.worker_id, r.expires_at
      limit p_max
    ) as o
    limit p_max
  );
  if cardinality(v_ids) > 0 then
    with gone as (
      delete from perdure.running as r
      where r.id = any(array(
        select x.id
        from perdure.running as x
        where x.id = any(v_ids) and x.expires_at <= p_now
        for update skip locked
      ))
      returning r.*
    )
    select array_agg(row(g.*)::perdure.running order by g.id) into v_overdue from gone as g;
  end if;
  select r.* into v_recovered from perdure._recover_workers(p_max, p_now) as r;
  amount := v_recovered.amount + coalesce(cardinality(v_overdue), 0);
  tellings := v_recovered.tellings
    || perdure._revoke(v_overdue, 'timed_out', 'the attempt timed out', p_now);
end
$$;

comment on function perdure._expire_running(int, timestamptz) is
'Takes away lost leases, at most p_max of each kind; amount: how many.';
-- What a body may want to know of its execution beyond the plainest facts.

create or replace function perdure._extra(
  p_id bigint, p_queue text, p_parent_id bigint, p_root_id bigint, p_position int,
  p_is_finalize boolean, p_iteration int, p_crashes int, p_key text, p_deadline_at timestamptz,
  p_headers jsonb, p_tags text[], p_error jsonb
) returns jsonb
language sql
stable
as $$
  select jsonb_strip_nulls(jsonb_build_object(
    'parent_id', p_parent_id,
    'root_id', nullif(p_root_id, p_id),
    'position', p_position,
    'is_finalize', nullif(p_is_finalize, false),
    'iteration', nullif(p_iteration, 0),
    'crashes', nullif(p_crashes, 0),
    'key', p_key,
    'queue', nullif(p_queue, 'default'),
    'deadline_at', p_deadline_at,
    'tags', p_tags
  ))
  || case when p_headers is null then '{}' else jsonb_build_object('headers', p_headers) end
  || case when p_error is null then '{}' else jsonb_build_object('error', p_error) end
$$;

comment on function perdure._extra(
  bigint, text, bigint, bigint, int, boolean, int, int, text, timestamptz, jsonb, text[], jsonb
) is
'The `extra` object of a claimed execution; fields that say nothing are left out.';
-- _hand_back: running -> ready
-- Unharmed: no attempt used, at its old place in the line.
-- Locks: none but the new rows. p_revoked is 1 where the worker did not ask for it.

create or replace function perdure._hand_back(
  p_rows perdure.running[], p_revoked int, p_now timestamptz
) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_back perdure.scheduled[];
begin
  select array_agg(
    row(
      r.id, least(e.start_at, p_now), r.deadline_at, r.parent_id, r.parent_generation,
      r.token + p_revoked, r.attempts, r.crashes, r.iteration,
      pg_column_size(coalesce(r.input, e.input)), coalesce(e.priority, 0), r.is_keyed,
      coalesce(e.queue, 'default'), r.task, r.input
    )::perdure.scheduled
  )
  into v_back
  from unnest(p_rows) as r
  left join lateral (select x.* from perdure.execution as x where x.id = r.id) as e on true;
  perform perdure._place(v_back, p_now);
  return coalesce(cardinality(v_back), 0);
end
$$;

comment on function perdure._hand_back(perdure.running[], int, timestamptz) is
'Puts leased executions back into ready as if they had not been claimed; returns how many.';
-- The cheapest question there is, so that an idle worker writes nothing.

create or replace function perdure._has_due(p_queues text[]) returns boolean
language sql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select exists (
    -- asked in a sub-select, the clock is read once and can bound an index
    select from perdure.scheduled as s where s.start_at <= (select perdure._clock())
  ) or exists (
    select
    from unnest(p_queues) as q (name)
    cross join lateral (
      select from perdure.ready as r where r.queue = q.name and not r.is_aside limit 1
    ) as r
  )
$$;

comment on function perdure._has_due(text[]) is
'True when something may be claimed from these queues, or moved into them.';
-- While a large cancel is being worked off, no descendant may begin. Asked only while closing holds
-- such work. A live execution below an ended one can have no other reason.

create or replace function perdure._is_doomed(p_id bigint) returns boolean
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  with recursive ancestor as (
    select r.parent_id as id from perdure.ready as r where r.id = p_id and r.parent_id is not null
    union all
    select w.parent_id
    from ancestor as a
    cross join lateral (
      select x.parent_id from perdure.waiting as x where x.id = a.id and x.parent_id is not null
    ) as w
  )
  select exists (
    select
    from ancestor as a
    where not exists (select from perdure.waiting as w where w.id = a.id)
  )
$$;

comment on function perdure._is_doomed(bigint) is
'True when an ancestor of this ready execution has ended: its own end is under way.';
-- Keys that were kept for an interval after the end are dropped when it is over.
-- Locks: rows of key, SKIP LOCKED.

create or replace function perdure._lapse_keys(p_now timestamptz, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_count int;
begin
  delete from perdure.key as k
  where k.until <= p_now
    and k.id = any(array(
      select x.id
      from perdure.key as x
      where x.until <= p_now
      order by x.until
      limit p_max
      for update skip locked
    ));
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._lapse_keys(timestamptz, int) is
'Drops up to p_max keys whose time is over; returns how many.';
-- Whoever holds a lease, known or not: one index probe for each, however many leases there are.

create or replace function perdure._lease_holders() returns setof int
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
  with recursive holder as (
    (select r.worker_id as id from perdure.running as r order by r.worker_id limit 1)
    union all
    select (
      select r.worker_id
      from perdure.running as r
      where r.worker_id > h.id
      order by r.worker_id
      limit 1
    )
    from holder as h
    where h.id is not null
  )
  select h.id from holder as h where h.id is not null
$$;

comment on function perdure._lease_holders() is
'Ids of the workers that stand in perdure.running, each once.';
-- What the counter of a waiting parent ought to be.

create or replace function perdure._live_children(p_parent perdure.waiting) returns int
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select (
    select count(*)
    from perdure.execution as e
    where e.parent_id = p_parent.id
      and e.parent_generation = p_parent.generation
      and e.is_finalize = (p_parent.phase = 'finalize')
      and (p_parent.phase <> 'steps' or e.position = p_parent.step)
      and not exists (select from perdure.finished as f where f.id = e.id)
  )::int + (  -- ended, but not yet told
    select coalesce(sum(c.amount), 0)
    from perdure.closing as c
    where c.kind = 'tell' and c.execution_id = p_parent.id and c.generation = p_parent.generation
  )::int
$$;

comment on function perdure._live_children(perdure.waiting) is
'Children of the parent''s generation and phase that have not told it yet.';
-- An outcome can be looked up only if it names a lease with numbers that fit.

create or replace function perdure._names_a_lease(p_outcome jsonb) returns boolean
language sql
immutable
parallel safe
as $$
  select coalesce(
    pg_catalog.jsonb_typeof(p_outcome) = 'object'
    and p_outcome ->> 'id' ~ '^[0-9]{1,18}$'
    and p_outcome ->> 'token' ~ '^[0-9]{1,9}$',
    false
  )
$$;

comment on function perdure._names_a_lease(jsonb) is
'True for an object whose id and token are whole numbers.';
-- Each parking of an execution has a number; only children of the same one count.

create or replace function perdure._next_generation(p_id bigint) returns int
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select coalesce(max(e.parent_generation), 0) + 1
  from perdure.execution as e
  where e.parent_id = p_id
$$;

comment on function perdure._next_generation(bigint) is
'One more than the generation of its youngest children; 1 where there are none.';
-- _next_step: waiting -> waiting
-- And the next step of a sequence, fed with the previous output: new -> ready or sleeping.
-- Locks: none but new rows; the caller holds the parent's waiting row.

create or replace function perdure._next_step(
  p_parent perdure.waiting, p_output jsonb, p_now timestamptz
) returns text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_item jsonb;
  v_children record;
begin
  delete from perdure.step as s
  where s.parent_id = p_parent.id and s.position = p_parent.step + 1
  returning s.item into v_item;
  select a.* into v_children
  from perdure._accept_children(
    jsonb_build_array(jsonb_build_object('input', p_output) || v_item), null, true, p_now
  ) as a;
  if v_children.code is not null then
    return format('step %s: %s', p_parent.step + 1, v_children.message);
  end if;
  perform perdure._insert(
    v_children.items, p_now, p_parent.id, p_parent.generation, p_parent.step + 1
  );
  update perdure.waiting as w
  set step = w.step + 1, active = 1
  where w.id = p_parent.id;
  return null;
end
$$;

comment on function perdure._next_step(perdure.waiting, jsonb, timestamptz) is
'Begins the next step; the reason, where it cannot begin.';
-- _park: running -> waiting
-- And its children, or its first step: new -> ready, scheduled or sleeping.
-- Locks: keys of the children, in order. All or nothing: a child that is refused leaves no trace of
-- its siblings, and the parent fails with that reason.

create or replace function perdure._park(
  p_row perdure.running, p_outcome jsonb, p_now timestamptz, p_limit int,
  out code text, out message text, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_children jsonb := coalesce(p_outcome -> 'children', '[]');
  v_output jsonb := nullif(p_outcome -> 'output', 'null');
  v_finalize jsonb := nullif(p_outcome -> 'finalize', 'null');
  v_is_sequence boolean := coalesce(p_outcome -> 'sequential' = 'true', false);
  v_amount int;
  v_items perdure._item[];
  v_generation int := perdure._next_generation(p_row.id);
begin
  if jsonb_typeof(v_children) <> 'array' then
    code := 'QD027';
    message := 'children have to be a JSON array of items';
    return;
  elsif perdure._exceeds(v_output, p_limit) then
    code := 'QD022';
    message := format('the parent''s output exceeds the limit of %s bytes', p_limit);
    return;
  end if;
  v_amount := jsonb_array_length(v_children);
  v_is_sequence := v_is_sequence and v_amount > 0;
  if v_is_sequence
    and jsonb_typeof(v_children -> 0) = 'object'
    and not v_children -> 0 ? 'input'
  then
    v_children := jsonb_set(v_children, '{0,input}', coalesce(v_output, 'null'));
  end if;
  select a.items, a.code, a.message into v_items, code, message
  from perdure._accept_children(v_children, v_finalize, v_is_sequence, p_now) as a;
  if code is not null then
    return;
  end if;
  insert into perdure.waiting (
    id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, step,
    worker_id, token, attempts, crashes, iteration, is_keyed, is_fail_fast, phase, task
  )
  values (
    p_row.id, p_now, p_row.started_at, p_row.deadline_at, p_row.parent_id, p_row.parent_generation,
    v_generation, cardinality(v_items), case when v_is_sequence then 0 end, p_row.worker_id,
    p_row.token, p_row.attempts, p_row.crashes, p_row.iteration, p_row.is_keyed,
    coalesce(p_outcome -> 'fail_fast' = 'true', false),
    case when v_is_sequence then 'steps' else 'children' end, p_row.task
  );
  if v_output is not null or v_finalize is not null then
    insert into perdure.parked (id, output, finalize) values (p_row.id, v_output, v_finalize);
  end if;
  if v_is_sequence then
    insert into perdure.step (parent_id, position, item)
    select p_row.id, c.n - 1, c.item
    from jsonb_array_elements(v_children) with ordinality as c (item, n)
    where c.n > 1;
  end if;
  perform perdure._insert(v_items, p_now, p_row.id, v_generation, 0);
  if v_amount = 0 then  -- nobody will ever tell it: it tells itself
    tellings := array[row(p_row.id, v_generation, 0, 0)::perdure._telling];
  end if;
end
$$;

comment on function perdure._park(perdure.running, jsonb, timestamptz, int) is
'Parks a parent that spawned children (or steps, or nothing but a finalize). code and message when a
child was refused: then nothing was written.';
-- _place: any -> ready
-- Out of another room, into ready, or into scheduled when due later.
-- Locks: none but the new rows. The one way back to the line: retry, again, release, recovery,
-- redrive.

create or replace function perdure._place(p_rows perdure.scheduled[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  insert into perdure.scheduled
  select r.* from unnest(p_rows) as r where r.start_at > p_now;
  insert into perdure.ready (
    id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
    bytes, priority, is_keyed, queue, task, input
  )
  select
    r.id, r.start_at, r.deadline_at, r.parent_id, r.parent_generation, r.token, r.attempts,
    r.crashes, r.iteration, r.bytes, r.priority, r.is_keyed, r.queue, r.task, r.input
  from unnest(p_rows) as r
  where r.start_at <= p_now;
end
$$;

comment on function perdure._place(perdure.scheduled[], timestamptz) is
'Puts executions into ready, or into scheduled where start_at is later than p_now.';
-- _promote: scheduled -> ready
-- Locks: due rows of scheduled, SKIP LOCKED; waits for nobody. No queue is asked for: whoever comes
-- first moves what is due.

create or replace function perdure._promote(p_now timestamptz, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_ids bigint[];
  v_count int;
begin
  v_ids := array(
    select s.id
    from perdure.scheduled as s
    where s.start_at <= p_now
    order by s.start_at, s.id
    limit p_max
    for update skip locked
  );
  if cardinality(v_ids) = 0 then
    return 0;
  end if;
  with gone as (
    delete from perdure.scheduled as s where s.id = any(v_ids) returning s.*
  )
  insert into perdure.ready (
    id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
    bytes, priority, is_keyed, queue, task, input
  )
  select
    g.id, g.start_at, g.deadline_at, g.parent_id, g.parent_generation, g.token, g.attempts,
    g.crashes, g.iteration, g.bytes, g.priority, g.is_keyed, g.queue, g.task, g.input
  from gone as g;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._promote(timestamptz, int) is
'Moves up to p_max executions that are due by p_now to ready; returns how many.';
-- _record: running -> any
-- Completed here, and by way of the files beside this one to every other end, ready, or waiting.
-- Locks: the worker's row (by the caller), then its running rows. A lease that is not held, by id,
-- worker and token, changes nothing.

create or replace function perdure._record(
  p_worker perdure.worker, p_outcomes jsonb,
  out results jsonb, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_by_lease jsonb;
  v_ids bigint[];
  v_rest perdure.running[];
  v_done bigint[];
  v_keyed bigint[];
  v_timed bigint[];
begin
  if jsonb_typeof(p_outcomes) <> 'array' then
    raise exception 'outcomes have to be a JSON array, got %', jsonb_typeof(p_outcomes)
      using errcode = 'QD028';
  end if;
  -- an object by lease: the guard of the delete below can look an outcome up, so no join is needed
  select
    jsonb_object_agg((o.value ->> 'id')::bigint || ' ' || (o.value ->> 'token')::int, o.value),
    array_agg((o.value ->> 'id')::bigint)
  into v_by_lease, v_ids
  from jsonb_array_elements(p_outcomes) as o
  where perdure._names_a_lease(o.value);

  with gone as (
    delete from perdure.running as r
    where r.id = any(v_ids)
      and r.worker_id = p_worker.id
      and v_by_lease ? (r.id || ' ' || r.token)
    returning r.*, v_by_lease -> (r.id || ' ' || r.token) as outcome
  ), judged as (
    select
      g.*,
      g.outcome ->> 'outcome' = 'completed'
        and perdure._exceeds(g.outcome -> 'output', v_limit) is not true as is_done
    from gone as g
  ), done as (
    insert into perdure.finished (
      id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output
    )
    select
      j.id, j.started_at, v_now, j.worker_id, j.token, j.attempts + 1, j.crashes, j.iteration,
      'completed', nullif(j.outcome -> 'output', 'null')
    from judged as j
    where j.is_done
  ), told as (
    select j.parent_id, j.parent_generation, count(*)::int as amount
    from judged as j
    where j.is_done and j.parent_id is not null
    group by j.parent_id, j.parent_generation
  )
  select
    (select array_agg(row(t.parent_id, t.parent_generation, t.amount, 0)::perdure._telling)
      from told as t),
    array_agg(j.id) filter (where j.is_done),
    array_agg(j.id) filter (where j.is_done and j.is_keyed),
    array_agg(j.id) filter (where j.is_done and j.deadline_at is not null),
    array_agg(
      row(
        j.id, j.started_at, j.expires_at, j.deadline_at, j.parent_id, j.parent_generation,
        j.worker_id, j.token, j.attempts, j.crashes, j.iteration, j.is_keyed, j.task, j.input
      )::perdure.running order by j.id
    ) filter (where j.is_done is not true)
  into tellings, v_done, v_keyed, v_timed, v_rest
  from judged as j;

  if v_keyed is not null or v_timed is not null then
    perform perdure._forget(v_keyed, v_timed, v_now);
  end if;
  if v_rest is not null then
    select x.results, _record.tellings || x.tellings into results, tellings
    from perdure._record_rest(v_rest, v_by_lease, v_now, v_limit) as x;
  end if;
  if coalesce(cardinality(v_done), 0) + coalesce(cardinality(v_rest), 0)
    <> jsonb_array_length(p_outcomes)
  then
    results := coalesce(results, '[]') || perdure._refusals(p_outcomes, v_done, v_rest);
  end if;
end
$$;

comment on function perdure._record(perdure.worker, jsonb) is
'Applies a batch of outcomes, each judged alone. results: a JSON array of those that were not
plainly recorded ({id, token, result, code, message}); tellings: what decrement_parents() still has
to do, as the transaction''s last step.';
-- _record_rest: running -> any
-- What is not plainly completed, item by item: the leases are already taken.
-- An unacceptable item ends its own execution and nothing else.

create or replace function perdure._record_rest(
  p_rows perdure.running[], p_by_lease jsonb, p_now timestamptz, p_limit int,
  out results jsonb, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_row perdure.running;
  v_outcome jsonb;
  v_kind text;
  v_delay bigint;
  v_code text;
  v_reason text;
  v_spawn_tellings perdure._telling[];
  v_back perdure.running[] := '{}';
  v_again perdure.running[] := '{}';
  v_delays_again bigint[] := '{}';
  v_unsettled perdure.running[] := '{}';
  v_statuses text[] := '{}';
  v_errors jsonb[] := '{}';
  v_delays bigint[] := '{}';
begin
  results := '[]';
  foreach v_row in array p_rows loop
    v_outcome := p_by_lease -> (v_row.id || ' ' || v_row.token);
    v_kind := v_outcome ->> 'outcome';
    v_delay := perdure._delay_ms(v_outcome -> 'delay');
    v_code := null;
    case
      when v_kind = 'released' then
        v_back := v_back || v_row;
      when v_kind in ('failed', 'timed_out', 'cancelled') and v_delay is distinct from -1 then
        v_unsettled := v_unsettled || v_row;
        v_statuses := v_statuses || v_kind;
        v_delays := v_delays || v_delay;
        v_errors := v_errors || perdure._error(
          v_outcome -> 'error', v_kind,
          case v_kind
            when 'failed' then 'the body failed'
            when 'timed_out' then 'the attempt timed out'
            else 'the body cancelled its execution'
          end,
          v_kind <> 'cancelled', p_limit
        );
      when v_kind = 'completed' then
        v_code := 'QD022';
        v_reason := format('the output exceeds the limit of %s bytes', p_limit);
      when v_delay = -1 then
        v_code := 'QD028';
        v_reason := 'delay is no duration between 0 and ten years';
      when v_kind = 'again' and perdure._exceeds(v_outcome -> 'input', p_limit) then
        v_code := 'QD022';
        v_reason := format('the input for `again` exceeds the limit of %s bytes', p_limit);
      when v_kind = 'again' then
        v_row.input := coalesce(v_outcome -> 'input', v_row.input);
        v_again := v_again || v_row;
        v_delays_again := v_delays_again || coalesce(v_delay, 0);
      when v_kind = 'spawned' then
        select s.code, s.message, s.tellings into v_code, v_reason, v_spawn_tellings
        from perdure._park(v_row, v_outcome, p_now, p_limit) as s;
        tellings := tellings || v_spawn_tellings;
      else
        v_code := 'QD028';
        v_reason := format('unknown outcome %s', coalesce(left(v_kind, 80), 'null'));
    end case;
    if v_code is not null then
      v_unsettled := v_unsettled || v_row;
      v_statuses := v_statuses || 'failed'::text;
      v_delays := v_delays || null::bigint;
      v_errors := v_errors || jsonb_build_object(
        'type', case v_code
          when 'QD022' then 'payload_too_large'
          when 'QD028' then 'invalid_outcome'
          else 'invalid_child'
        end,
        'code', v_code, 'message', v_reason, 'retryable', false
      );
      results := results || jsonb_build_object(
        'id', v_row.id, 'token', v_row.token,
        'result', case v_code when 'QD028' then 'invalid' else 'failed' end,
        'code', v_code, 'message', v_reason
      );
    end if;
  end loop;
  perform perdure._hand_back(v_back, 0, p_now);
  perform perdure._repeat(v_again, v_delays_again, p_now);
  if cardinality(v_unsettled) > 0 then
    tellings := tellings
      || perdure._settle(v_unsettled, v_statuses, v_errors, v_delays, 0, p_now);
  end if;
  results := nullif(results, '[]');
end
$$;

comment on function perdure._record_rest(perdure.running[], jsonb, timestamptz, int) is
'Applies outcomes other than an acceptable `completed` to leases that were just taken.';
-- _recover_workers: running -> any
-- The leases of workers that died: ready, or failed (crashed).
-- Locks: worker rows, SKIP LOCKED (a worker that is busy reporting is not dead), then their running
-- rows. A worker is first marked as lost, and given up after a grace in which it may come back; the
-- row goes in the transaction that takes its last lease. Leases of workers that do not exist are
-- recovered too.

create or replace function perdure._recover_workers(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_known int[] := array(select w.id from perdure.worker as w);
  v_live int[] := perdure._live_workers();  -- after v_known: who can be seen has taken its lock
  v_config perdure.config;
  v_gone int[];
  v_crashed record;
begin
  amount := 0;
  select c.* into v_config from perdure.config as c;
  update perdure.worker as w
  set lost_at = p_now
  where w.id = any(array(
    select x.id
    from perdure.worker as x
    where x.lost_at is null and x.id = any(v_known) and x.id <> all(v_live)
    for update skip locked
  ));
  update perdure.worker as w
  set lost_at = null
  where w.id = any(array(
    select x.id
    from perdure.worker as x
    where x.lost_at is not null and x.id = any(v_live)
    for update skip locked
  ));
  if clock_timestamp() < pg_postmaster_start_time() + v_config.restart_grace then
    return;  -- a restart took every lock: let the workers come back
  end if;
  v_gone := array(
    select w.id
    from perdure.worker as w
    where w.lost_at <= p_now - v_config.worker_grace and w.id <> all(v_live)
    for update skip locked
  );
  if cardinality(v_gone) > 0 then
    select c.* into v_crashed from perdure._crash(v_gone, p_max, p_now) as c;
    amount := v_crashed.amount;
    tellings := v_crashed.tellings;
    delete from perdure.worker as w
    where w.id = any(v_gone)
      and not exists (select from perdure.running as r where r.worker_id = w.id);
  end if;
  v_gone := array(
    select h.id
    from perdure._lease_holders() as h (id)
    where not exists (select from perdure.worker as w where w.id = h.id)
  );
  if cardinality(v_gone) > 0 then
    select c.* into v_crashed from perdure._crash(v_gone, p_max - amount, p_now) as c;
    amount := amount + v_crashed.amount;
    tellings := tellings || v_crashed.tellings;
  end if;
end
$$;

comment on function perdure._recover_workers(int, timestamptz) is
'Takes up to p_max leases from workers that are gone.';
-- Outcomes that changed nothing, and why. A token whose outcome is recorded stands in finished, in
-- attempt, or with the room row to which that outcome led; a lease that was taken away left a
-- higher token there.

create or replace function perdure._refusals(
  p_outcomes jsonb, p_done bigint[], p_rest perdure.running[]
) returns jsonb
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_taken text[] :=
    array(select f.id || ' ' || f.token from perdure.finished as f where f.id = any(p_done))
    || array(select r.id || ' ' || r.token from unnest(p_rest) as r);
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', o.value -> 'id',
      'token', o.value -> 'token',
      'result', v.result,
      'code', case v.result when 'lost' then 'QD008' when 'invalid' then 'QD028' end,
      'message', case v.result
        when 'lost' then 'this lease is not held; nothing was changed'
        when 'invalid' then 'an outcome is an object with id, token and outcome; one per lease'
      end
    ) order by o.n), '[]')
    from jsonb_array_elements(p_outcomes) with ordinality as o (value, n)
    cross join lateral (
      select case
        when not perdure._names_a_lease(o.value) then 'invalid'
        else perdure._verdict((o.value ->> 'id')::bigint, (o.value ->> 'token')::int)
      end as result
    ) as v
    where not perdure._names_a_lease(o.value)
      or (o.value ->> 'id')::bigint || ' ' || (o.value ->> 'token')::int <> all(v_taken)
  );
end
$$;

comment on function perdure._refusals(jsonb, bigint[], perdure.running[]) is
'One object {id, token, result, code, message} for each outcome that named no held lease; result is
already, cancelled, lost or invalid.';
-- _rejoin: waiting -> waiting
-- A redriven child counts again, if its parent still waits for it.
-- Locks: the parent's waiting row.

create or replace function perdure._rejoin(p_fact perdure.execution, p_is_detached boolean)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  if p_fact.parent_id is null then
    return null;
  end if;
  update perdure.waiting as w
  set active = w.active + 1
  where w.id = p_fact.parent_id
    and w.generation = p_fact.parent_generation
    and w.phase = 'children'
    and not p_fact.is_finalize;
  if found then
    return p_fact.parent_id;
  elsif p_is_detached and not p_fact.is_finalize then
    return null;
  end if;
  raise exception 'the parent % of execution % has ended or moved on', p_fact.parent_id, p_fact.id
    using errcode = 'QD005',
      hint = case
        when p_fact.is_finalize then 'Retry the parent: it spawns its children and finalize anew.'
        else 'Retry the parent, or give detach => true: the execution then tells nobody.'
      end;
end
$$;

comment on function perdure._rejoin(perdure.execution, boolean) is
'The parent that will be told of the redriven child; null for none. Raises QD005.';
-- _repeat: running -> ready
-- Or scheduled: `again`. Attempts and crashes start anew.
-- Locks: none but the new rows.

create or replace function perdure._repeat(
  p_rows perdure.running[], p_delays bigint[], p_now timestamptz
) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_next perdure.scheduled[];
begin
  select array_agg(
    row(
      r.id, p_now + p_delays[r.ordinality] * interval '1 millisecond', r.deadline_at, r.parent_id,
      r.parent_generation, r.token, 0, 0, r.iteration + 1,
      pg_column_size(coalesce(r.input, e.input)), coalesce(e.priority, 0), r.is_keyed,
      coalesce(e.queue, 'default'), r.task, r.input
    )::perdure.scheduled
  )
  into v_next
  from unnest(p_rows) with ordinality as r
  left join lateral (select x.* from perdure.execution as x where x.id = r.id) as e on true;
  perform perdure._place(v_next, p_now);
end
$$;

comment on function perdure._repeat(perdure.running[], bigint[], timestamptz) is
'Schedules the next iteration of leased executions, each after its delay in milliseconds.';
-- A redriven execution has its key again, or cannot be redriven.

create or replace function perdure._retake_key(p_fact perdure.execution, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_item perdure._item;
  v_holder bigint;
begin
  if p_fact.key is null then
    return;
  end if;
  update perdure.key as k set until = null where k.id = p_fact.id;
  if found then
    return;
  end if;
  v_item.id := p_fact.id;
  v_item.key := p_fact.key;
  v_item.key_scope := p_fact.key_scope;
  v_item.keep_ms := 0;
  v_item.is_kept_ever := false;
  v_holder := perdure._take_key(v_item, p_now);
  if v_holder <> p_fact.id then
    raise exception 'the key % of execution % is held by execution %',
      p_fact.key, p_fact.id, v_holder
      using errcode = 'QD003';
  end if;
end
$$;

comment on function perdure._retake_key(perdure.execution, timestamptz) is
'Takes the execution''s key again. Raises QD003 where another live execution has it.';
-- _revoke: running -> any
-- Leases that were taken away: their attempt is recorded, and they go on or end.
-- Locks: none but new rows.

create or replace function perdure._revoke(
  p_rows perdure.running[], p_status text, p_message text, p_now timestamptz
) returns perdure._telling[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_amount int := coalesce(cardinality(p_rows), 0);
begin
  return case
    when v_amount > 0 then perdure._settle(
      p_rows,
      array_fill(p_status, array[v_amount]),
      array_fill(
        jsonb_build_object(
          'type', p_status, 'message', p_message, 'retryable', p_status <> 'crashed'
        ), array[v_amount]
      ),
      array_fill(null::bigint, array[v_amount]),
      1, p_now
    )
  end;
end
$$;

comment on function perdure._revoke(perdure.running[], text, text, timestamptz) is
'Settles leases taken from their workers as crashed or timed_out; returns what has to be told.';
-- _settle: running -> any
-- Ready or scheduled for a retry, or an end: failed, timed_out, cancelled.
-- Locks: none but the new rows; the caller has taken the rows out of running. The one place that
-- decides about a retry: a failure or time-out uses an attempt, a crash uses the crash budget.
-- p_revoked is 1 where the lease was taken away, so that no late report bears the recorded token.

create or replace function perdure._settle(
  p_rows perdure.running[], p_statuses text[], p_errors jsonb[], p_delays bigint[],
  p_revoked int, p_now timestamptz
) returns perdure._telling[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_next perdure.scheduled[];
  v_ended bigint[];
  v_keyed bigint[];
  v_timed bigint[];
  v_tellings perdure._telling[];
begin
  with lost as (
    select r.*, p_statuses[r.ordinality] as status, p_errors[r.ordinality] as error,
      p_delays[r.ordinality] as delay_ms,
      r.attempts + (p_statuses[r.ordinality] <> 'crashed')::int as attempts_used,
      r.crashes + (p_statuses[r.ordinality] = 'crashed')::int as crashes_used
    from unnest(p_rows) with ordinality as r
  ), judged as (
    select l.*, e.queue, e.priority, e.input as first_input,
      case
        when e.id is null or l.status = 'cancelled' then false
        when l.status = 'crashed' then l.crashes_used <= e.max_crashes
        else l.error -> 'retryable' is distinct from 'false' and l.attempts_used < e.max_attempts
      end as goes_on,
      case
        when l.status = 'crashed' then e.start_at
        else p_now + interval '1 millisecond' * coalesce(
          l.delay_ms,
          perdure._retry_delay_ms(
            l.attempts_used, e.retry_delay_ms, e.retry_multiplier, e.retry_max_delay_ms,
            e.retry_jitter, e.is_linear
          )
        )
      end as next_at
    from lost as l
    left join lateral (
      select x.* from perdure.execution as x where x.id = l.id
    ) as e on true
  ), history as (
    insert into perdure.attempt (
      execution_id, token, attempt, worker_id, started_at, ended_at, status, error
    )
    select
      j.id, j.token + p_revoked, j.attempts + 1, j.worker_id, j.started_at, p_now, j.status, j.error
    from judged as j
    where j.goes_on
  ), ended as (
    insert into perdure.finished (
      id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, error
    )
    select
      j.id, j.started_at, p_now, j.worker_id, j.token + p_revoked, j.attempts + 1,
      j.crashes_used, j.iteration, case j.status when 'crashed' then 'failed' else j.status end,
      j.error
    from judged as j
    where not j.goes_on
  )
  select
    array_agg(
      row(
        j.id, j.next_at, j.deadline_at, j.parent_id, j.parent_generation, j.token + p_revoked,
        j.attempts_used, j.crashes_used, j.iteration,
        pg_column_size(coalesce(j.input, j.first_input)), j.priority, j.is_keyed, j.queue, j.task,
        j.input
      )::perdure.scheduled
    ) filter (where j.goes_on),
    array_agg(j.id) filter (where not j.goes_on),
    array_agg(j.id) filter (where not j.goes_on and j.is_keyed),
    array_agg(j.id) filter (where not j.goes_on and j.deadline_at is not null),
    array_agg(row(j.parent_id, j.parent_generation, 1, 1)::perdure._telling)
      filter (where not j.goes_on and j.parent_id is not null)
  into v_next, v_ended, v_keyed, v_timed, v_tellings
  from judged as j;

  if coalesce(cardinality(v_next), 0) + coalesce(cardinality(v_ended), 0)
    <> cardinality(p_rows)
  then
    raise exception 'moved % executions out of running, settled %', cardinality(p_rows),
      coalesce(cardinality(v_next), 0) + coalesce(cardinality(v_ended), 0)
      using errcode = 'QD040';
  end if;
  perform perdure._place(v_next, p_now);
  perform perdure._forget(v_keyed, v_timed, p_now);
  return v_tellings;
end
$$;

comment on function perdure._settle(
  perdure.running[], text[], jsonb[], bigint[], int, timestamptz
) is
'Retries or ends executions whose attempt was not a success; statuses, errors and delays (ms, null:
by policy) stand in parallel arrays. Returns what their parents have to be told.';
-- _tell: waiting -> any
-- Waiting with fewer active children, and where none is left: the parent's next phase or its end,
-- which is told to its own parent in turn. The last step of every transaction that ended
-- executions.
-- Locks: waiting rows, one at a time, in strictly descending id (a parent is older than its
-- children), so two climbs can wait for each other but never in a circle. Whoever holds a room row
-- of an execution may wait upwards like this, never downwards. Housekeeping ends executions of many
-- trees in one transaction, so no order of its waits would be safe: it is not patient, and leaves a
-- parent whose row is locked to closing. Bounded: after 1000 parents the rest is left to closing.

create or replace function perdure._tell(p_tellings perdure._telling[], p_is_patient boolean)
returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_given perdure._telling[];
  v_risen perdure._telling[] := '{}';
  v_next perdure._telling;
  v_step record;
  v_at int := 1;
  v_begun int := 0;
begin
  if p_tellings is null then
    return 0;
  end if;
  v_given := array(
    select row(
      t.parent_id, t.generation,
      case when bool_and(t.amount is not null) then sum(t.amount) end,
      coalesce(sum(t.failures), 0)
    )::perdure._telling
    from unnest(p_tellings) as t
    group by t.parent_id, t.generation
    order by t.parent_id desc, t.generation desc
  );
  for v_turn in 1 .. 1000 loop
    -- several children of one parent may have ended during this climb: it is told once
    select r.parent_id, r.generation, sum(r.amount), sum(r.failures) into v_next
    from unnest(v_risen) as r
    group by r.parent_id, r.generation
    order by r.parent_id desc, r.generation desc
    limit 1;
    if v_next.parent_id is null or v_given[v_at].parent_id >= v_next.parent_id then
      v_next := v_given[v_at];
      v_at := v_at + 1;
    else
      v_risen := array(
        select r
        from unnest(v_risen) as r
        where (r.parent_id, r.generation) <> (v_next.parent_id, v_next.generation)
      );
    end if;
    exit when v_next.parent_id is null;
    select d.* into v_step from perdure._decrement(v_next, p_is_patient, v_now) as d;
    v_begun := v_begun + v_step.begun;
    if (v_step.telling).parent_id is not null then
      v_risen := v_risen || v_step.telling;
    end if;
  end loop;
  insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
  select
    case when t.amount is null then 'recount' else 'tell' end, t.parent_id, t.generation, t.amount,
    t.failures, v_now
  from unnest(v_risen || v_given[v_at:]) as t
  where v_next.parent_id is not null;
  return v_begun;
end
$$;

comment on function perdure._tell(perdure._telling[], boolean) is
'Applies collected tellings (null for none); returns how many executions began. p_is_patient: waits
for a locked parent; otherwise that one is told later, by close_batch().';
-- _time_out: any -> timed_out
-- One execution whose moment in deadline has come.
-- Locks: SKIP LOCKED only, for it runs in a row with others: what is locked is left to closing.

create or replace function perdure._time_out(
  p_id bigint, p_now timestamptz, p_limit int, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_is_deadline boolean;
  v_error jsonb;
  v_ended record;
  v_below record;
begin
  amount := 1;
  select e.deadline_at <= p_now into v_is_deadline from perdure.execution as e where e.id = p_id;
  v_error := jsonb_build_object(
    'type', case when v_is_deadline then 'deadline_exceeded' else 'timed_out' end,
    'message', case
      when v_is_deadline then 'the deadline has passed' else 'nobody woke it in time'
    end,
    'retryable', false
  );
  select l.* into v_ended from perdure._end_live(array[p_id], 'timed_out', v_error, p_now) as l;
  tellings := v_ended.tellings;
  if v_ended.parents is not null then
    select d.* into v_below
    from perdure._end_descendants(
      v_ended.parents, null, null,
      jsonb_build_object(
        'type', 'cancelled', 'retryable', false,
        'message', format('execution %s ended timed_out', p_id)
      ),
      p_limit, p_now
    ) as d;
    amount := amount + v_below.amount;
    tellings := tellings || v_below.tellings;
  end if;
  if v_ended.ended is null and not exists (select from perdure.finished as f where f.id = p_id) then
    insert into perdure.closing (kind, execution_id, status, error, due_at)
    values ('end', p_id, 'timed_out', v_error, p_now);
  end if;
end
$$;

comment on function perdure._time_out(bigint, timestamptz, int) is
'Ends one execution as timed_out, or leaves that to closing. amount: executions looked at, about
p_limit at most; tellings: for decrement_parents().';
-- Why a lease is not held.

create or replace function perdure._verdict(p_id bigint, p_token int) returns text
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select case
    when exists (select from perdure.finished as f where f.id = p_id and f.token = p_token)
      or exists (select from perdure.attempt as a where a.execution_id = p_id and a.token = p_token)
      or exists (select from perdure.ready as r where r.id = p_id and r.token = p_token)
      or exists (select from perdure.scheduled as s where s.id = p_id and s.token = p_token)
      or exists (select from perdure.waiting as w where w.id = p_id and w.token = p_token)
      then 'already'
    when exists (select from perdure.finished as f where f.id = p_id and f.status = 'cancelled')
      then 'cancelled'
    else 'lost'
  end
$$;

comment on function perdure._verdict(bigint, int) is
'already: this token''s outcome is recorded. cancelled: the execution was cancelled. lost: the lease
was taken away, or never was.';
-- cancel: any -> cancelled
-- Ready, scheduled, running, sleeping or waiting, and the whole live subtree at once.
-- Locks: the execution's room row, then its descendants' (SKIP LOCKED), last its ancestors' waiting
-- rows upwards. A body that runs is told at its worker's next exchange.

create or replace function perdure.cancel(id bigint, reason text default null) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_end record;
begin
  perform perdure._require_read_committed();
  if not exists (select from perdure.execution as e where e.id = cancel.id) then
    raise exception 'there is no execution %', cancel.id using errcode = 'QD001';
  end if;
  select e.* into v_end
  from perdure._end(
    cancel.id, 'cancelled',
    jsonb_build_object(
      'type', 'cancelled', 'retryable', false,
      'message', coalesce(left(cancel.reason, 10000), 'the execution was cancelled')
    ),
    v_now
  ) as e;
  perform perdure._tell(v_end.tellings, true);
  return v_end.result;
end
$$;

comment on function perdure.cancel(bigint, text) is
'Cancels an execution with all its live descendants: up to config.cancel_limit in this transaction,
the rest by close_batch(), and none of them is claimed any more. Returns cancelled, finished (it had
ended already: nothing changed) or pending (it kept moving: close_batch() ends it). Raises QD001,
QD010.';
-- claim_ready: ready -> running
-- Locks: the worker's row, then rows of ready in order, SKIP LOCKED.

create or replace function perdure.claim_ready(
  worker uuid, queues text[] default null, tasks text[] default null, max int default 1
) returns table (
  id bigint, token int, task text, attempt int, input jsonb, timeout_ms bigint, extra jsonb
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
begin
  return query
  select c.id, c.token, c.task, c.attempt, c.input, c.timeout_ms, c.extra
  from perdure._claim(
    v_worker,
    perdure._served(queues, v_worker.queues, 'queue'),
    perdure._served(tasks, v_worker.tasks, 'task'),
    coalesce(max, 1)
  ) as c;
end
$$;

comment on function perdure.claim_ready(uuid, text[], text[], int) is
'Leases up to `max` due executions to this worker, by queue in the order given, then priority (the
smaller first), start_at, id. Null queues or tasks: those it registered with; others are refused
(QD026). Report each lease (id, token) with finish() or exchange(). Raises QD007, QD010.';
-- close_batch: closing -> gone
-- Locks: as _close_batch; last waiting rows, SKIP LOCKED.

create or replace function perdure.close_batch(max int default 1000) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_done record;
begin
  perform perdure._require_read_committed();
  select d.* into v_done from perdure._close_batch(close_batch.max, perdure._clock()) as d;
  perform perdure._tell(v_done.tellings, false);
  return v_done.amount;
end
$$;

comment on function perdure.close_batch(int) is
'Pays up to `max` debts of ended executions: tells parents, cancels descendants (about
config.cancel_limit a call), recounts. Returns how many rows of closing it took. Raises QD010.';
-- decrement_parents: waiting -> any
-- Waiting with fewer active children, the next phase, or an end.
-- Locks: waiting rows, one at a time, in strictly descending id, as _tell.

create or replace function perdure.decrement_parents(
  parents bigint[], generations int[], counts int[], failures int[]
) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  perform perdure._require_read_committed();
  return perdure._tell(
    array(
      select row(t.parent_id, t.generation, t.amount, t.failures)::perdure._telling
      from unnest(parents, generations, counts, failures)
        as t (parent_id, generation, amount, failures)
    ),
    true
  );
end
$$;

comment on function perdure.decrement_parents(bigint[], int[], int[], int[]) is
'Tells parents that `counts` of their children of this generation ended, `failures` of them not
completed; parallel arrays. A null count has the counter set anew from the children. A parent that
ended or moved on is passed over. Returns how many executions (finalize, next steps) began. Meant to
be the last step of its transaction. Raises QD010.';
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
  tags text[] default null
) returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
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
      'tags', enqueue.tags
    )) || jsonb_build_object('input', coalesce(enqueue.input, 'null'))
    || case
      when enqueue.headers is null then '{}'
      else jsonb_build_object('headers', enqueue.headers)
    end
  )) as r;
  if v_result.code is not null then
    raise exception 'cannot enqueue %: %', coalesce(enqueue.task, 'null'), v_result.message
      using errcode = v_result.code;
  end if;
  return v_result.id;
end
$$;

comment on function perdure.enqueue(
  text, jsonb, text, int, interval, timestamptz, int, interval, timestamptz, text, text, text,
  boolean, interval, double precision, interval, double precision, text, int, jsonb, text[]
) is
'Enqueues one execution of a task and returns its id. Null arguments mean the task''s defaults, else
the engine''s (docs/reference/sql.md). With a key that is in force it returns the id that has it.
Raises QD003 (the key has another task or input), QD020 to QD026 (bad argument).';
-- enqueue_many: new -> ready
-- Or scheduled, or sleeping; set by set.
-- Runs in the caller's transaction. Locks: keys, in ascending order, so that two batches cannot
-- deadlock on them. Each item is judged alone.

create or replace function perdure.enqueue_many(items jsonb)
returns table (item int, id bigint, is_new boolean, code text, message text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz := perdure._clock();
  v_items perdure._item[];
  v_at int;
begin
  if jsonb_typeof(items) is distinct from 'array' then
    raise exception 'items have to be a JSON array, got %', coalesce(jsonb_typeof(items), 'null')
      using errcode = 'QD021';
  end if;
  v_items := perdure._resolve(items, v_now);
  for v_at in
    select i.ordinality
    from unnest(v_items) with ordinality as i
    where i.code is null and i.key is not null
    order by i.key_scope, i.key, i.ordinality
  loop
    v_items[v_at] := perdure._keyed(v_items[v_at], v_items, v_now);
  end loop;
  perform perdure._insert(
    array(
      select row(i.*)::perdure._item
      from unnest(v_items) as i
      where i.code is null and not i.is_taken
    ),
    v_now
  );
  return query
  select
    (i.ordinality - 1)::int,
    case when i.code is null then i.id end,
    i.code is null and not i.is_taken,
    i.code,
    i.message
  from unnest(v_items) with ordinality as i
  order by i.ordinality;
end
$$;

comment on function perdure.enqueue_many(jsonb) is
'Enqueues a JSON array of items ({"task", "input", and any argument of enqueue}); one row for each,
in order: its id (is_new is false where its key was in force), or code and message where it was
refused. Durations: seconds as a number, or an interval as a string. Raises QD021 when items is not
an array.';
-- exchange: running -> any
-- And ready -> running: finish and claim in one round trip and one commit.
-- Locks: the worker's row; its running rows; rows of ready, SKIP LOCKED; last the parents' waiting
-- rows, one at a time in descending id. An exchange that finds nothing to do writes nothing.

create or replace function perdure.exchange(
  worker uuid,
  outcomes jsonb default null,
  want int default 0,
  queues text[] default null,
  tasks text[] default null,
  held bigint[] default null,
  call bigint default null,
  after jsonb default null,
  out results json,
  out claimed json,
  out gone bigint[],
  out more boolean,
  out wait_ms int,
  out next_after jsonb
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_worker perdure.worker;
  v_queues text[];
  v_tasks text[];
  v_results jsonb;
  v_tellings perdure._telling[];
  v_made int := 0;
begin
  if outcomes in ('[]', 'null') then
    outcomes := null;
  end if;
  select w.* into v_worker from perdure.worker as w where w.incarnation = exchange.worker;
  v_queues := perdure._served(queues, v_worker.queues, 'queue');
  v_tasks := perdure._served(tasks, v_worker.tasks, 'task');
  if v_worker.id is null or outcomes is not null or call < v_worker.least_call
    or (want > 0 and perdure._has_due(v_queues))
  then
    v_worker := perdure._enter(worker, call);
    if outcomes is not null then
      select r.results, r.tellings into v_results, v_tellings
      from perdure._record(v_worker, outcomes) as r;
      results := v_results;
    end if;
    if want > 0 then
      select
        json_agg(json_build_array(
          c.id, c.token, c.task, c.attempt, c.input, c.timeout_ms, c.extra
        )),
        jsonb_object_agg(c.queue, jsonb_build_array(c.priority, c.start_at, c.id))
          filter (where c.is_last),
        -- fewer than wanted: the head of the line was not looked at, or the byte budget was used up
        count(*) < want and (after is not null or sum(c.bytes) >= (
          select g.claim_bytes from perdure.config as g
        ))
      into claimed, next_after, more
      from perdure._claim(v_worker, v_queues, v_tasks, want, after) as c;
    end if;
    v_made := perdure._tell(v_tellings, true);
  end if;
  if cardinality(held) > 0 then
    gone := array(
      select unnest(held)
      except
      select r.id from perdure.running as r where r.id = any(held) and r.worker_id = v_worker.id
    );
  end if;
  select least(
    2147483647,
    greatest(0, ceil(extract(epoch from s.start_at - perdure._clock()) * 1000))
  )
  into wait_ms
  from perdure.scheduled as s
  order by s.start_at, s.id
  limit 1;
  more := v_made > 0 or coalesce(more, false);
end
$$;

comment on function perdure.exchange(
  uuid, jsonb, int, text[], text[], bigint[], bigint, jsonb
) is
'What a worker says and asks in one round trip: reports outcomes, claims up to `want`, and learns
which of the ids in `held` it no longer holds (`gone`). results: the outcomes that were not plainly
recorded. claimed: arrays [id, token, task, attempt, input, timeout_ms, extra]. more: ask again at
once. wait_ms: until the next scheduled execution is due. next_after: where the claim ended, to be
given back as `after`. call: numbers upwards; one below that of the last resume is refused (QD009).
Raises QD007, QD009, QD010, QD026, QD028.';
-- expire_deadlines: any -> timed_out
-- Any live status, by a deadline or a sleeper's time-out.
-- Locks: as _expire_deadlines; last the ancestors' waiting rows, SKIP LOCKED.

create or replace function perdure.expire_deadlines(max int default 1000) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_done record;
begin
  perform perdure._require_read_committed();
  select d.* into v_done
  from perdure._expire_deadlines(expire_deadlines.max, perdure._clock()) as d;
  perform perdure._tell(v_done.tellings, false);
  return v_done.amount;
end
$$;

comment on function perdure.expire_deadlines(int) is
'Ends executions whose deadline has passed, and sleepers whose time is up, as timed_out, with their
live subtrees; at most `max`. Returns how many were due. Raises QD010.';
-- expire_running: running -> any
-- Leases that are lost: ready, scheduled, or an end.
-- Locks: as _expire_running; last the parents' waiting rows, SKIP LOCKED.

create or replace function perdure.expire_running(max int default 1000) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_done record;
begin
  perform perdure._require_read_committed();
  select d.* into v_done from perdure._expire_running(expire_running.max, perdure._clock()) as d;
  perform perdure._tell(v_done.tellings, false);
  return v_done.amount;
end
$$;

comment on function perdure.expire_running(int) is
'Takes away the leases of workers that died and of attempts that are overdue; at most `max` of each.
Returns how many. Each is retried or ends as its policy says: timed_out, or failed with error type
crashed when the crash budget is used up. Raises QD010.';
-- finish: running -> any
-- Completed, failed, timed_out, cancelled, ready, scheduled, or waiting.
-- Locks: the worker's row; its running rows; keys; last the parents' waiting rows, one at a time in
-- descending id.

create or replace function perdure.finish(worker uuid, outcomes jsonb)
returns table (id bigint, token int, result text, code text, message text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
  v_results jsonb;
  v_tellings perdure._telling[];
begin
  select r.results, r.tellings into v_results, v_tellings
  from perdure._record(v_worker, coalesce(outcomes, '[]')) as r;
  perform perdure._tell(v_tellings, true);
  return query
  select
    case when o.value ->> 'id' ~ '^[0-9]{1,18}$' then (o.value ->> 'id')::bigint end,
    case when o.value ->> 'token' ~ '^[0-9]{1,9}$' then (o.value ->> 'token')::int end,
    coalesce(x.value ->> 'result', 'recorded'),
    x.value ->> 'code',
    x.value ->> 'message'
  from jsonb_array_elements(outcomes) with ordinality as o (value, n)
  left join lateral (  -- one answer each, also to outcomes that name the same lease, or none
    select r.value
    from jsonb_array_elements(v_results) as r
    where r.value -> 'id' = coalesce(o.value -> 'id', 'null')
      and r.value -> 'token' = coalesce(o.value -> 'token', 'null')
    limit 1
  ) as x on true
  order by o.n;
end
$$;

comment on function perdure.finish(uuid, jsonb) is
'Reports a JSON array of outcomes ({"id", "token", "outcome", …}: docs/reference/sql.md). One row
for each: recorded, already (this token''s outcome was recorded before), cancelled, lost (QD008: the
lease is not held), failed or invalid (the outcome was unacceptable, so the execution ended failed;
code and message say why). Raises QD007, QD010, QD028 (not an array).';
-- process_children_finished: waiting -> any
-- The next phase, or an end.
-- Locks: the parent's waiting row, then its ancestors' upwards. The last child's own transaction
-- does this already; here it can be done by hand, and it refuses while a child lives.

create or replace function perdure.process_children_finished(parent bigint) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_parent perdure.waiting;
begin
  perform perdure._require_read_committed();
  select w.* into v_parent from perdure.waiting as w where w.id = parent for no key update;
  if v_parent.id is null and not exists (
    select from perdure.execution as e where e.id = parent
  ) then
    raise exception 'there is no execution %', parent using errcode = 'QD001';
  elsif v_parent.id is null or v_parent.phase = 'sleep' or v_parent.active > 0 then
    raise exception 'execution % does not wait for ended children (% of them live)',
      parent, coalesce(v_parent.active, 0)
      using errcode = 'QD011';
  end if;
  perform perdure.decrement_parents(array[parent], array[v_parent.generation], array[0], array[0]);
  return (select x.status from perdure.executions as x where x.id = parent);
end
$$;

comment on function perdure.process_children_finished(bigint) is
'Moves a parent on whose children have all ended, and returns its status afterwards. Raises QD001,
QD010, QD011 (it is not waiting, or a child lives).';
-- retry_finished: finished -> ready
-- Every end; a sleeper sleeps again.
-- Locks: the row in finished; its key; last its parent's waiting row upwards. The old outcome goes
-- to attempt. The execution belongs to its parent again only if that one still waits for this very
-- generation; otherwise it is refused, or runs on its own when `detach` is given.

create or replace function perdure.retry_finished(id bigint, detach boolean default false)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := perdure._clock();
  v_fact perdure.execution;
  v_old perdure.finished;
  v_parent_id bigint;
  v_deadline timestamptz;
begin
  perform perdure._require_read_committed();
  select e.* into v_fact from perdure.execution as e where e.id = retry_finished.id;
  if v_fact.id is null then
    raise exception 'there is no execution %', retry_finished.id using errcode = 'QD001';
  elsif exists (
    select from perdure.closing as c where c.execution_id = retry_finished.id
  ) then
    raise exception 'execution % is still closing', retry_finished.id
      using errcode = 'QD012', hint = 'Call perdure.close_batch(), or try again in a second.';
  end if;
  delete from perdure.finished as f where f.id = retry_finished.id returning f.* into v_old;
  if v_old.id is null then
    raise exception 'execution % has not finished', retry_finished.id using errcode = 'QD006';
  end if;
  perform perdure._retake_key(v_fact, v_now);
  v_parent_id := perdure._rejoin(v_fact, detach);
  insert into perdure.attempt (
    execution_id, token, attempt, worker_id, started_at, ended_at, status, error, output
  )
  values (
    v_old.id, v_old.token, v_old.attempts, v_old.worker_id, v_old.started_at, v_old.finished_at,
    v_old.status, v_old.error, v_old.output
  );
  v_deadline := case when v_fact.deadline_at > v_now then v_fact.deadline_at end;
  if v_fact.is_sleeping then
    insert into perdure.waiting (
      id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, token,
      attempts, crashes, iteration, is_keyed, phase, task
    )
    values (
      v_fact.id, v_now, v_now, v_deadline, v_parent_id,
      case when v_parent_id is not null then v_fact.parent_generation end, 0, 0, v_old.token + 1,
      0, 0, 0, true, 'sleep', v_fact.task
    );
  else
    perform perdure._place(array[row(
      v_fact.id, v_now, v_deadline, v_parent_id,
      case when v_parent_id is not null then v_fact.parent_generation end, v_old.token + 1, 0, 0, 0,
      pg_column_size(v_fact.input), v_fact.priority, v_fact.key is not null, v_fact.queue,
      v_fact.task, null
    )::perdure.scheduled], v_now);
  end if;
  insert into perdure.deadline (id, at)
  select v_fact.id, d.at
  from (
    select least(
      v_deadline,
      case when v_fact.is_sleeping then v_now + v_fact.timeout_ms * interval '1 millisecond' end
    ) as at
  ) as d
  where d.at is not null;
  return v_fact.id;
end
$$;

comment on function perdure.retry_finished(bigint, boolean) is
'Runs an ended execution anew: attempts and crashes start at 0, the old outcome is kept in attempt.
A parent runs its body again and may spawn anew. Raises QD001, QD003 (its key was taken), QD005 (its
parent has ended or moved on: `detach` lets a child run without it; a finalize cannot), QD006 (it
has not finished), QD010, QD012 (its tree is still being told).';
-- sweep: every transition that time alone causes, one bounded pass
-- Locks: as its parts; last, once for all, the parents' waiting rows: each SKIP LOCKED, so that a
-- sweep waits for nobody and any number of them may run at once.

create or replace function perdure.sweep(
  channel text default null, max int default 1000,
  out promoted int, out recovered int, out timed_out int, out closed int, out moved int,
  out forgotten int, out more boolean
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_queue text;
  v_timed record;
  v_lost record;
  v_owed record;
begin
  perform perdure._require_read_committed();
  promoted := perdure._promote(v_now, sweep.max);
  moved := 0;
  for v_queue in
    select distinct q.name
    from perdure.worker as w, unnest(w.queues) as q (name)
    where w.lost_at is null and (sweep.channel is null or q.name = sweep.channel)
  loop
    moved := moved + perdure._set_aside(v_queue, sweep.max * 10);
  end loop;
  forgotten := perdure._lapse_keys(v_now, sweep.max);
  select d.* into v_timed from perdure._expire_deadlines(least(sweep.max, 100), v_now) as d;
  select r.* into v_lost from perdure._expire_running(sweep.max, v_now) as r;
  select c.* into v_owed from perdure._close_batch(sweep.max, v_now) as c;
  timed_out := v_timed.amount;
  recovered := v_lost.amount;
  closed := v_owed.amount;
  perform perdure._tell(v_timed.tellings || v_lost.tellings || v_owed.tellings, false);
  more := promoted = sweep.max or moved >= sweep.max * 10 or forgotten = sweep.max
    or exists (select from perdure.deadline as d where d.at <= v_now) or recovered >= sweep.max
    or exists (select from perdure.closing as c where c.due_at <= v_now);
end
$$;

comment on function perdure.sweep(text, int) is
'One bounded pass of housekeeping: moves due executions to ready, recovers lost leases, ends what is
past its deadline, tells parents and cancels descendants, sets aside what no worker knows, drops
lapsed keys. Safe to call from anywhere, at any time, by any number of callers. `channel`: a queue
to which setting aside is limited. more: call again at once. Raises QD010.';
-- wake: sleeping -> any
-- Completed, or failed with the given error.
-- Locks: the sleeper's waiting row; last its ancestors' waiting rows upwards. Idempotent: a second
-- call finds the outcome and returns it unchanged.

create or replace function perdure.wake(
  task text, key text, output jsonb default null, error jsonb default null,
  key_scope text default null
) returns perdure.woken
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_scope text := coalesce(wake.key_scope, wake.task);
  v_id bigint;
  v_live_id bigint;
  v_sleeper perdure.waiting;
  v_telling perdure._telling;
begin
  perform perdure._require_read_committed();
  if perdure._exceeds(wake.output, v_limit) then
    raise exception 'the output exceeds the limit of % bytes', v_limit using errcode = 'QD022';
  end if;
  -- the live holder of the key, else the youngest that had it
  select e.id into v_id
  from perdure.execution as e
  where e.key_scope = v_scope and e.key = wake.key and e.task = wake.task
  order by e.key_scope desc, e.key desc, e.id desc
  limit 1;
  if v_id is null then
    raise exception 'no execution of % ever had the key %', wake.task, wake.key
      using errcode = 'QD002';
  end if;
  select k.id into v_live_id
  from perdure.key as k
  where k.scope = v_scope and k.key = wake.key and k.until is null
    and not exists (select from perdure.finished as f where f.id = k.id)
    and exists (select from perdure.execution as e where e.id = k.id and e.task = wake.task);
  v_id := coalesce(v_live_id, v_id);
  select w.* into v_sleeper
  from perdure.waiting as w
  where w.id = v_id and w.phase = 'sleep'
  for update;
  if v_sleeper.id is not null then
    v_telling := perdure._end_parent(
      v_sleeper,
      case when coalesce(wake.error, 'null') = 'null' then 'completed' else 'failed' end,
      nullif(wake.output, 'null'),
      case
        when coalesce(wake.error, 'null') <> 'null'
          then perdure._error(wake.error, 'failed', 'woken with an error', false, v_limit)
      end,
      v_now
    );
    if v_telling.parent_id is not null then
      perform perdure._tell(array[v_telling], true);
    end if;
  elsif not exists (select from perdure.finished as f where f.id = v_id) then
    raise exception 'execution % with the key % does not sleep', v_id, wake.key
      using errcode = 'QD004';
  end if;
  return (
    select row(f.id, f.status, f.output, f.error, v_sleeper.id is not null)::perdure.woken
    from perdure.finished as f
    where f.id = v_id
  );
end
$$;

comment on function perdure.wake(text, text, jsonb, jsonb, text) is
'Wakes the sleeping execution of `task` that has this key: it completes with `output`, or fails with
`error` when one is given. Where it ended before, its outcome is returned unchanged (is_woken
false). Raises QD002 (no such key), QD004 (its execution is not a sleeper), QD010, QD022.';
-- The history of one execution.

create or replace function perdure.attempts(id bigint)
returns table (
  attempt int, token int, status text, error jsonb, output jsonb, worker_id int,
  started_at timestamptz, ended_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select a.attempt, a.token, a.status, a.error, a.output, a.worker_id, a.started_at, a.ended_at
  from perdure.attempt as a
  where a.execution_id = attempts.id
  order by a.token
$$;

comment on function perdure.attempts(bigint) is
'Attempts after which an execution went on (failed, timed out, crashed, redriven), oldest first. The
last one stands in perdure.executions.';
-- What a waiting client polls: an index probe for each id.

create or replace function perdure.outcomes(ids bigint[])
returns table (id bigint, status text, output jsonb, error jsonb)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select f.id, f.status, f.output, f.error
  from perdure.finished as f
  where f.id = any(ids)
$$;

comment on function perdure.outcomes(bigint[]) is
'Outcomes of those of the executions that have ended.';
-- Rows set aside stand in the line again once a live worker of their queue knows their task.
-- Locks: rows of ready, SKIP LOCKED.

create or replace function perdure._bring_back(p_queues text[], p_tasks text[], p_max int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_count int;
begin
  update perdure.ready as r
  set is_aside = false
  where r.id = any(array(
    select x.id
    from perdure.ready as x
    where x.is_aside and x.queue = any(p_queues) and (p_tasks is null or x.task = any(p_tasks))
    limit p_max
    for update skip locked
  ));
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._bring_back(text[], text[], int) is
'Puts up to p_max executions of these queues and tasks (null: all) back into the line.';
-- Every transition of a worker begins here: its row is locked until the transaction ends, so that
-- it runs one at a time, and no sweep can give the worker up while it moves rows.

create or replace function perdure._enter(p_worker uuid, p_call bigint default null)
returns perdure.worker
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  perform perdure._require_read_committed();
  select w.* into v_worker
  from perdure.worker as w
  where w.incarnation = p_worker
  for no key update;
  if v_worker.id is null then
    raise exception 'this worker is not registered, or its work was taken away'
      using errcode = 'QD007', hint = 'Register anew with perdure.register_worker.';
  end if;
  if p_call < v_worker.least_call then
    raise exception 'call % was sent before this worker resumed with call %',
      p_call, v_worker.least_call
      using errcode = 'QD009';
  end if;
  return v_worker;
end
$$;

comment on function perdure._enter(uuid, bigint) is
'The worker''s row, locked (FOR NO KEY UPDATE). Raises QD007 for an unknown worker, QD009 for a call
from before its last resume, QD010 for the wrong isolation level.';
-- Who holds its lock. Looked up in pg_locks: trying the lock itself would make a worker's own
-- reconnect fail.

create or replace function perdure._live_workers() returns int[]
language sql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
  select array(
    select l.objid::int
    from pg_locks as l
    where l.locktype = 'advisory'
      and l.granted
      and l.objsubid = 2
      and l.classid = (select c.lock_namespace from perdure.config as c)::oid
      and l.database = (select d.oid from pg_database as d where d.datname = current_database())
  )
$$;

comment on function perdure._live_workers() is
'Ids of the workers whose session holds its advisory lock at this moment.';
-- A claim may narrow what the worker registered, never widen it: the sweeper sets rows aside by
-- what is registered.

create or replace function perdure._served(p_asked text[], p_registered text[], p_what text)
returns text[]
language plpgsql
immutable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p_asked is null or p_asked <@ p_registered or p_registered is null then
    return coalesce(p_asked, p_registered);
  end if;
  raise exception 'this worker did not register for % %', p_what,
    array(select a.name from unnest(p_asked) as a (name) where a.name <> all(p_registered))
    using errcode = 'QD026';
end
$$;

comment on function perdure._served(text[], text[], text) is
'The names asked for, or those registered when null. Raises QD026 for one that is not registered.';
-- Executions of a task that no live worker of their queue knows would be stepped over by every
-- claim: they are set aside until such a worker comes. A queue without any live worker is left
-- alone, for nobody claims there. The head of the line is looked at: only if something foreign
-- stands in its first 1000 rows, the first p_max.
-- Locks: rows of ready, SKIP LOCKED.

create or replace function perdure._set_aside(p_queue text, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_known text[];
  v_count int := 0;
  v_moved int := 0;
begin
  if exists (
    select from perdure.worker as w
    where w.lost_at is null and p_queue = any(w.queues) and w.tasks is null
  ) then
    return perdure._bring_back(array[p_queue], null, p_max);
  end if;
  v_known := array(
    select distinct t.name
    from perdure.worker as w, unnest(w.tasks) as t (name)
    where w.lost_at is null and p_queue = any(w.queues)
  );
  if exists (select from perdure.ready as r where r.is_aside and r.queue = p_queue) then
    v_count := perdure._bring_back(array[p_queue], v_known, p_max);
  end if;
  if exists (
    select
    from (
      select r.task
      from perdure.ready as r
      where r.queue = p_queue and not r.is_aside
      order by r.priority, r.start_at, r.id
      limit 1000
    ) as head
    where head.task <> all(v_known)
  ) then
    update perdure.ready as r
    set is_aside = true
    where r.id = any(array(
      select x.id
      from perdure.ready as x
      where x.task <> all(v_known) and not x.is_aside and x.id = any(array(
        select h.id
        from perdure.ready as h
        where h.queue = p_queue and not h.is_aside
        order by h.priority, h.start_at, h.id
        limit p_max
      ))
      for update skip locked
    ));
    get diagnostics v_moved = row_count;
  end if;
  return v_count + v_moved;
end
$$;

comment on function perdure._set_aside(text, int) is
'Sets aside, or brings back, up to p_max executions of a queue; returns how many were moved.';
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
      and v_task ?| array['key', 'key_for', 'key_scope', 'delay', 'run_at', 'headers']
    then
      v.code := 'QD026';
      v.message := 'key, key_for, key_scope, delay, run_at and headers belong to one execution';
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
-- register_worker: a process makes itself known
-- Locks: the session advisory lock (config.lock_namespace, id), held until this session ends. It is
-- taken before the row can be seen, so nobody sees a worker without its lock. Executions that were
-- set aside because no worker knew their task come back to the line.

create or replace function perdure.register_worker(
  name text, queues text[] default '{default}', tasks text[] default null, info jsonb default null
) returns uuid
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  perform perdure._require_read_committed();
  if perdure._is_name(name) is not true
    or coalesce(cardinality(queues), 0) = 0
    or exists (
      select from unnest(queues || tasks) as n (name) where perdure._is_name(n.name) is not true
    )
  then
    raise exception 'a worker has a name, a queue or more, and tasks, of 1 to 255 characters each'
      using errcode = 'QD020';
  end if;
  insert into perdure.worker (name, queues, tasks, info, registered_at)
  values (
    register_worker.name, register_worker.queues, register_worker.tasks, register_worker.info,
    perdure._clock()
  )
  returning * into v_worker;
  perform pg_advisory_lock(c.lock_namespace, v_worker.id) from perdure.config as c;
  perform perdure._bring_back(v_worker.queues, v_worker.tasks, 10000);
  return v_worker.incarnation;
end
$$;

comment on function perdure.register_worker(text, text[], text[], jsonb) is
'Registers this session as a worker for queues (in order of preference) and task names (null: all),
and returns its incarnation, the secret by which it claims and reports. It lives as long as this
session, which has to be a direct connection. Raises QD010, QD020.';
-- resume_worker: the same incarnation on a new session
-- Locks: the session advisory lock; the worker's row, FOR UPDATE: an exchange that is still under
-- way on the old session is waited for, and one that arrives later has too low a call number. So
-- what is listed here is the whole truth.

create or replace function perdure.resume_worker(
  worker uuid, held bigint[] default null, call bigint default 0
) returns table (id bigint, token int)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_worker perdure.worker;
  v_unknown perdure.running[];
begin
  perform perdure._require_read_committed();
  select w.* into v_worker
  from perdure.worker as w
  where w.incarnation = resume_worker.worker
  for update;
  if v_worker.id is null then
    raise exception 'this worker is not registered, or its work was taken away'
      using errcode = 'QD007', hint = 'Register anew with perdure.register_worker.';
  end if;
  if not pg_try_advisory_lock((select c.lock_namespace from perdure.config as c), v_worker.id) then
    raise exception 'another session of this worker is still alive'
      using errcode = 'QD009', hint = 'Try again: the server notices a dead session soon.';
  end if;
  update perdure.worker as w
  set lost_at = null, least_call = greatest(w.least_call, resume_worker.call)
  where w.id = v_worker.id;
  with gone as (
    delete from perdure.running as r
    where r.worker_id = v_worker.id and r.id <> all(coalesce(resume_worker.held, '{}'))
    returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_unknown from gone as g;
  perform perdure._hand_back(v_unknown, 1, perdure._clock());
  return query
  select r.id, r.token from perdure.running as r where r.worker_id = v_worker.id order by r.id;
end
$$;

comment on function perdure.resume_worker(uuid, bigint[], bigint) is
'Takes an incarnation over to this session. Leases that are not in `held` (their claim''s reply was
lost) go back to ready unharmed; the others are returned. Exchanges with a call number below `call`
are refused from now on. Raises QD007 (register anew), QD009 (the old session is still there),
QD010.';
-- unregister_worker: a worker leaves; what it still holds goes back unharmed
-- Locks: the worker's row, its running rows.

create or replace function perdure.unregister_worker(worker uuid) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
  v_held perdure.running[];
begin
  with gone as (
    delete from perdure.running as r where r.worker_id = v_worker.id returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_held from gone as g;
  delete from perdure.worker as w where w.id = v_worker.id;
  perform pg_advisory_unlock(c.lock_namespace, v_worker.id)
  from perdure.config as c
  where exists (  -- this session has the lock: a warning, otherwise
    select
    from pg_locks as l
    where l.pid = pg_backend_pid()
      and l.locktype = 'advisory'
      and l.classid = c.lock_namespace::oid
      and l.objid::int = v_worker.id
  );
  return perdure._hand_back(v_held, 1, perdure._clock());
end
$$;

comment on function perdure.unregister_worker(uuid) is
'Removes a worker; its leases go back to ready without using an attempt. Returns how many. Raises
QD007, QD010.';
-- What a finalize reads: the outcomes of the children, in the order given, page by page. The limit
-- in the lateral keeps the planner from joining the whole view: each child is a probe by id.

create or replace function perdure.children(
  parent bigint, generation int default null, after int default -1, max int default 1000
) returns table ("position" int, id bigint, task text, status text, output jsonb, error jsonb)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select c.position, c.id, c.task, x.status, x.output, x.error
  from (
    select e.position, e.id, e.task
    from perdure.execution as e
    where e.parent_id = children.parent
      and e.parent_generation
      = coalesce(children.generation, perdure._next_generation(children.parent) - 1)
      and e.position > children.after
    order by e.parent_id, e.parent_generation, e.position
    limit children.max
  ) as c
  left join lateral (
    select y.status, y.output, y.error from perdure.executions as y where y.id = c.id limit 1
  ) as x on true
  order by c.position
$$;

comment on function perdure.children(bigint, int, int, int) is
'Children of a parent after position `after`, at most `max`, without its finalize; of the generation
given, else of the youngest.';
-- The rooms put together: one row for each execution, with its status. Each room is a branch of its
-- own, so a condition on id or status reads only what it has to; the facts are joined to what is
-- left, by id.

create or replace view perdure.executions as
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  s.status,
  s.attempt,
  s.crashes,
  s.iteration,
  coalesce(s.input, e.input) as input,
  s.output,
  s.error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  s.worker_id,
  e.tags,
  e.headers,
  e.created_at,
  coalesce(s.start_at, e.start_at) as start_at,
  s.started_at,
  s.expires_at,
  s.finished_at,
  case when s.finished_at is null then s.deadline_at else e.deadline_at end as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from (
  select
    r.id,
    'ready' as status,
    r.attempts as attempt,
    r.crashes,
    r.iteration,
    r.input,
    null::jsonb as output,
    null::jsonb as error,
    null::int as worker_id,
    r.start_at,
    null::timestamptz as started_at,
    null::timestamptz as expires_at,
    null::timestamptz as finished_at,
    r.deadline_at
  from perdure.ready as r
  union all
  select
    d.id, 'ready', d.attempts, d.crashes, d.iteration, d.input, null, null, null, d.start_at,
    null, null, null, d.deadline_at
  from perdure.scheduled as d
  union all
  select
    r.id, 'running', r.attempts + 1, r.crashes, r.iteration, r.input, null, null, r.worker_id, null,
    r.started_at, r.expires_at, null, r.deadline_at
  from perdure.running as r
  union all
  select
    w.id,
    case w.phase
      when 'sleep' then 'sleeping'
      when 'finalize' then 'waiting_for_finalize'
      else 'waiting_for_children'
    end,
    case w.phase when 'sleep' then 0 else w.attempts + 1 end,
    w.crashes, w.iteration, null, p.output, null, w.worker_id, null, w.started_at,
    case w.phase when 'sleep' then t.at end,
    null, w.deadline_at
  from perdure.waiting as w
  left join perdure.parked as p on p.id = w.id
  left join perdure.deadline as t on t.id = w.id
  union all
  select
    f.id, f.status, f.attempts, f.crashes, f.iteration, null, f.output, f.error, f.worker_id, null,
    f.started_at, null, f.finished_at, null
  from perdure.finished as f
) as s
join perdure.execution as e on e.id = s.id;

comment on view perdure.executions is
'All executions, one row each, with their status: ready, running, sleeping, waiting_for_children,
waiting_for_finalize, completed, failed, timed_out, finalize_failed or cancelled. A ready execution
whose start_at lies ahead is not due yet.';
comment on column perdure.executions.attempt is
'Number of the attempt that runs or ended; where none runs, the attempts used up.';
comment on column perdure.executions.output is
'Of an ended execution; of a parent that waits, its own output.';
comment on column perdure.executions.timeout is 'Of one attempt; of a sleeper, of its sleep.';
-- Every invariant of the engine as one query: one statement, one snapshot, so it is true at any
-- moment, under any load. It reads everything: meant for tests and for a DBA's doubt, not for a
-- loop.

create or replace function perdure.fsck() returns table (invariant text, id bigint, detail text)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
  with room as (
    select r.id, 'ready' as room, r.task, r.token, r.parent_id, r.parent_generation, r.is_keyed,
      r.deadline_at
    from perdure.ready as r
    union all
    select s.id, 'scheduled', s.task, s.token, s.parent_id, s.parent_generation, s.is_keyed,
      s.deadline_at
    from perdure.scheduled as s
    union all
    select r.id, 'running', r.task, r.token, r.parent_id, r.parent_generation, r.is_keyed,
      r.deadline_at
    from perdure.running as r
    union all
    select w.id, 'waiting', w.task, w.token, w.parent_id, w.parent_generation, w.is_keyed,
      w.deadline_at
    from perdure.waiting as w
  ), stand as (
    select l.id, l.room from room as l
    union all
    select f.id, 'finished' from perdure.finished as f
  ), owing as (
    select c.execution_id as id from perdure.closing as c where c.kind = 'end'
  ), counted as (
    select l.parent_id, l.parent_generation, count(*) as live
    from room as l
    where l.parent_id is not null
    group by l.parent_id, l.parent_generation
  ), untold as (
    select c.execution_id, c.generation, sum(c.amount) as amount
    from perdure.closing as c
    where c.kind = 'tell'
    group by c.execution_id, c.generation
  )
  select 'an execution stands in one room', s.id, string_agg(s.room, ', ' order by s.room)
  from stand as s
  group by s.id
  having count(*) > 1
  union all
  select 'an execution stands in a room', e.id, 'none'
  from perdure.execution as e
  where not exists (select from stand as s where s.id = e.id)
  union all
  select 'a room row has its facts', s.id, s.room
  from stand as s
  where not exists (select from perdure.execution as e where e.id = s.id)
    -- a claim that found none ended the execution with this error
    and not exists (
      select from perdure.finished as f where f.id = s.id and f.error ->> 'type' = 'no_facts'
    )
  union all
  select 'a room row repeats its facts', l.id, l.room
  from room as l
  join perdure.execution as e on e.id = l.id
  where l.task <> e.task
    or l.parent_id <> e.parent_id
    or l.parent_generation <> e.parent_generation
    or l.is_keyed <> (e.key is not null)
    or l.deadline_at <> e.deadline_at
  union all
  select 'ready and scheduled rows stand in their queue', e.id, e.queue
  from perdure.execution as e
  join (
    select r.id, r.queue, r.priority from perdure.ready as r
    union all
    select s.id, s.queue, s.priority from perdure.scheduled as s
  ) as r on r.id = e.id
  where (r.queue, r.priority) <> (e.queue, e.priority)
  union all
  select 'a sleeper sleeps and nothing else does', e.id, l.room
  from room as l
  join perdure.execution as e on e.id = l.id
  left join perdure.waiting as w on w.id = l.id
  where e.is_sleeping <> (w.phase is not distinct from 'sleep')
  union all
  select 'the counter equals the live children', w.id,
    format('counter %s, live %s, untold %s', w.active, coalesce(c.live, 0), coalesce(u.amount, 0))
  from perdure.waiting as w
  left join counted as c on c.parent_id = w.id and c.parent_generation = w.generation
  left join untold as u on u.execution_id = w.id and u.generation = w.generation
  where w.phase <> 'sleep' and w.active <> coalesce(c.live, 0) + coalesce(u.amount, 0)
  union all
  select 'a parent waits for somebody', w.id, w.phase
  from perdure.waiting as w
  where w.phase <> 'sleep' and w.active = 0
  union all
  select 'a live child has a waiting parent of its generation', l.id,
    format('parent %s', l.parent_id)
  from room as l
  where l.parent_id is not null
    and not exists (
      select from perdure.waiting as w
      where w.id = l.parent_id and w.generation = l.parent_generation
    )
    and not exists (
      with recursive ancestor as (
        select l.id as id
        union all
        select e.parent_id
        from ancestor as a
        join perdure.execution as e on e.id = a.id
        where e.parent_id is not null
      )
      select from ancestor as a join owing as o on o.id = a.id
    )
  union all
  select 'children have different places', min(e.id), format('parent %s', e.parent_id)
  from perdure.execution as e
  where e.parent_id is not null
  group by e.parent_id, e.parent_generation, e.position
  having count(*) > 1
  union all
  select 'a root is a root of itself', e.id, format('root %s', e.root_id)
  from perdure.execution as e
  where (e.parent_id is null) <> (e.root_id = e.id)
  union all
  select 'a child has its parent''s root', e.id, format('root %s', e.root_id)
  from perdure.execution as e
  join perdure.execution as p on p.id = e.parent_id
  where e.root_id <> p.root_id
  union all
  select 'a lease has a worker', r.id, format('worker %s', r.worker_id)
  from perdure.running as r
  where not exists (select from perdure.worker as w where w.id = r.worker_id)
  union all
  select 'a token is above all recorded before', l.id, format('token %s', l.token)
  from room as l
  where exists (
    select from perdure.attempt as a where a.execution_id = l.id and a.token > l.token
  )
  union all
  select 'a key leads to its execution', k.id, format('%s of %s', k.key, k.scope)
  from perdure.key as k
  where not exists (
    select from perdure.execution as e where e.id = k.id and (e.key_scope, e.key) = (k.scope, k.key)
  )
  union all
  select 'a live keyed execution holds its key', l.id, e.key
  from room as l
  join perdure.execution as e on e.id = l.id
  where l.is_keyed
    and not exists (
      select from perdure.key as k
      where (k.scope, k.key) = (e.key_scope, e.key) and k.id = e.id and k.until is null
    )
  union all
  select 'a key of an ended execution lapses', k.id, k.key
  from perdure.key as k
  join perdure.finished as f on f.id = k.id
  where k.until is null and k.keep_ms is not null
  union all
  select 'a live execution with a deadline will meet it', l.id, l.deadline_at::text
  from room as l
  where l.deadline_at is not null
    and not exists (select from perdure.deadline as d where d.id = l.id and d.at <= l.deadline_at)
    and not exists (select from owing as o where o.id = l.id)
  union all
  select 'a deadline belongs to a live execution', d.id, d.at::text
  from perdure.deadline as d
  where not exists (select from room as l where l.id = d.id)
  union all
  select 'what is parked belongs to a waiting parent', p.id, 'parked'
  from perdure.parked as p
  where not exists (select from perdure.waiting as w where w.id = p.id and w.phase <> 'sleep')
  union all
  select 'a step to come belongs to a sequence', s.parent_id, format('step %s', s.position)
  from perdure.step as s
  where not exists (
    select from perdure.waiting as w
    where w.id = s.parent_id and w.phase = 'steps' and w.step < s.position
  )
  union all
  select 'attempts stay within the policy', f.id, format('%s of %s', f.attempts, e.max_attempts)
  from perdure.finished as f
  join perdure.execution as e on e.id = f.id
  where f.attempts > e.max_attempts or f.crashes > e.max_crashes + 1
$$;

comment on function perdure.fsck() is
'One row for each violated invariant, with the execution it was found at; no row when all is well.
Reads all tables in one snapshot; changes nothing.';
-- One execution, whatever its status.

create or replace function perdure.get_execution(id bigint) returns setof perdure.executions
language plpgsql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return query select x.* from perdure.executions as x where x.id = get_execution.id;
  if not found then
    raise exception 'there is no execution %', get_execution.id using errcode = 'QD001';
  end if;
end
$$;

comment on function perdure.get_execution(bigint) is
'The row of perdure.executions for one id. Raises QD001.';
-- A tree as a person reads it: depth first, children in order, a finalize after them. As in
-- children(), the limit in the last lateral makes a probe of each row.

create or replace function perdure.tree(root bigint, max int default 1000)
returns table (
  id bigint, parent_id bigint, depth int, "position" int, is_finalize boolean, task text,
  status text, attempt int, started_at timestamptz, finished_at timestamptz, error jsonb
)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  with recursive node as (
    select e.id, e.parent_id, 0 as depth, e.position, e.is_finalize, e.task,
      array[]::bigint[] as place
    from perdure.execution as e
    where e.id = tree.root
    union all
    select e.id, e.parent_id, n.depth + 1, e.position, e.is_finalize, e.task,
      n.place || array[e.parent_generation, coalesce(e.position, 2147483647)]::bigint[]
    from node as n
    cross join lateral (
      select x.*
      from perdure.execution as x
      where x.parent_id = n.id
      order by x.parent_id, x.parent_generation, x.position
      limit tree.max
    ) as e
  ), listed as (
    select n.* from node as n order by n.place limit tree.max
  )
  select l.id, l.parent_id, l.depth, l.position, l.is_finalize, l.task, x.status, x.attempt,
    x.started_at, x.finished_at, x.error
  from listed as l
  left join lateral (
    select y.status, y.attempt, y.started_at, y.finished_at, y.error
    from perdure.executions as y
    where y.id = l.id
    limit 1
  ) as x on true
  order by l.place
$$;

comment on function perdure.tree(bigint, int) is
'An execution with all its descendants, depth first, at most `max` rows.';
-- How far a tree is, in numbers.

create or replace function perdure.tree_progress(root bigint)
returns table (status text, executions bigint)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  with recursive node as (
    select e.id from perdure.execution as e where e.id = tree_progress.root
    union all
    select e.id
    from node as n
    cross join lateral (
      select x.id from perdure.execution as x where x.parent_id = n.id
    ) as e
  )
  select s.status, count(*)
  from node as n
  cross join lateral (
    select coalesce(
      (select f.status from perdure.finished as f where f.id = n.id),
      (select x.status from perdure.executions as x where x.id = n.id)
    ) as status
  ) as s
  group by s.status
  order by s.status
$$;

comment on function perdure.tree_progress(bigint) is
'Executions of a tree by status, the root included.';
-- Who may do what. Here: the owner everything, anybody else nothing.

revoke all on schema perdure from public;
revoke all on all tables in schema perdure from public;
revoke all on all sequences in schema perdure from public;
revoke all on all functions in schema perdure from public;
