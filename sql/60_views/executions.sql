-- The rooms put together: one row for each execution, with its status. Each room is a branch of its
-- own, so a condition on id or status reads only what it has to.

create or replace view perdure.executions as
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  'ready' as status,
  r.attempts as attempt,
  r.crashes,
  r.iteration,
  coalesce(r.input, e.input) as input,
  null::jsonb as output,
  null::jsonb as error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  null::int as worker_id,
  e.tags,
  e.headers,
  e.created_at,
  r.start_at as start_at,
  null::timestamptz as started_at,
  null::timestamptz as expires_at,
  null::timestamptz as finished_at,
  r.deadline_at as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from perdure.ready as r
join perdure.execution as e on e.id = r.id
union all
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  'ready' as status,
  s.attempts as attempt,
  s.crashes,
  s.iteration,
  coalesce(s.input, e.input) as input,
  null::jsonb as output,
  null::jsonb as error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  null::int as worker_id,
  e.tags,
  e.headers,
  e.created_at,
  s.start_at as start_at,
  null::timestamptz as started_at,
  null::timestamptz as expires_at,
  null::timestamptz as finished_at,
  s.deadline_at as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from perdure.scheduled as s
join perdure.execution as e on e.id = s.id
union all
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  'running' as status,
  r.attempts + 1 as attempt,
  r.crashes,
  r.iteration,
  coalesce(r.input, e.input) as input,
  null::jsonb as output,
  null::jsonb as error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  r.worker_id as worker_id,
  e.tags,
  e.headers,
  e.created_at,
  e.start_at as start_at,
  r.started_at as started_at,
  r.expires_at as expires_at,
  null::timestamptz as finished_at,
  r.deadline_at as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from perdure.running as r
join perdure.execution as e on e.id = r.id
union all
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  case w.phase
    when 'sleep' then 'sleeping'
    when 'finalize' then 'waiting_for_finalize'
    else 'waiting_for_children'
  end as status,
  case w.phase when 'sleep' then 0 else w.attempts + 1 end as attempt,
  w.crashes,
  w.iteration,
  e.input as input,
  p.output as output,
  null::jsonb as error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  w.worker_id as worker_id,
  e.tags,
  e.headers,
  e.created_at,
  e.start_at as start_at,
  w.started_at as started_at,
  case w.phase when 'sleep' then d.at end as expires_at,
  null::timestamptz as finished_at,
  w.deadline_at as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from perdure.waiting as w
join perdure.execution as e on e.id = w.id
left join perdure.parked as p on p.id = w.id
left join perdure.deadline as d on d.id = w.id
union all
select
  e.id,
  e.task,
  e.queue,
  e.priority,
  f.status as status,
  f.attempts as attempt,
  f.crashes,
  f.iteration,
  e.input as input,
  f.output as output,
  f.error as error,
  e.key,
  e.parent_id,
  e.parent_generation,
  e.position,
  e.is_finalize,
  e.root_id,
  f.worker_id as worker_id,
  e.tags,
  e.headers,
  e.created_at,
  e.start_at as start_at,
  f.started_at as started_at,
  null::timestamptz as expires_at,
  f.finished_at as finished_at,
  e.deadline_at as deadline_at,
  e.max_attempts,
  e.timeout_ms * interval '1 millisecond' as timeout
from perdure.finished as f
join perdure.execution as e on e.id = f.id;

comment on view perdure.executions is
'All executions, one row each, with their status: ready, running, sleeping, waiting_for_children,
waiting_for_finalize, completed, failed, timed_out, finalize_failed or cancelled. A ready execution
whose start_at lies ahead is not due yet.';
comment on column perdure.executions.attempt is
'Number of the attempt that runs or ended; where none runs, the attempts used up.';
comment on column perdure.executions.output is
'Of an ended execution; of a parent that waits, its own output.';
comment on column perdure.executions.timeout is 'Of one attempt; of a sleeper, of its sleep.';
