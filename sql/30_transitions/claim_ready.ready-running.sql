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
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
begin
  if exists (
    select from perdure.scheduled as s where s.start_at <= (select perdure._clock())
  ) then
    perform perdure._notify_ready();  -- the claim moves these into the lines of all queues
  end if;
  return query
  select c.id, c.token, c.task, c.attempt, c.input, c.timeout_ms, c.extra
  from perdure._claim(
    v_worker,
    perdure._served(queues, v_worker.queues, 'queue'),
    perdure._served(tasks, v_worker.tasks, 'task'),
    coalesce(max, 1)
  ) as c
  where c.id is not null;
end
$$;

comment on function perdure.claim_ready(uuid, text[], text[], int) is
'Leases up to `max` due executions to this worker, by queue in the order given, then priority (the
smaller first), start_at, id. Null queues or tasks: those it registered with; others are refused
(QD026). Report each lease (id, token) with finish() or exchange(). Raises QD007, QD010.';
