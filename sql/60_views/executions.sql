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
  e.timeout_ms * interval '1 millisecond' as timeout,
  e.shard_key
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
