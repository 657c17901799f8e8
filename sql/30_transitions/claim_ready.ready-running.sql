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
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_worker perdure.worker := perdure._enter(worker);
  v_now timestamptz := perdure._clock();
  v_most int := coalesce(max, 1);
  v_claim record;
begin
  queues := perdure._served(queues, v_worker.queues, 'queue');
  tasks := perdure._served(tasks, v_worker.tasks, 'task');
  if exists (select from perdure.scheduled as s where s.start_at <= v_now) then
    perform perdure._promote(v_now, greatest(v_most, 1000));
    perform perdure._notify_ready();  -- they may stand in the lines of any queue now
  end if;
  v_claim := perdure._claim(v_worker, queues, tasks, v_most, null);
  return query
  select
    (c.value ->> 0)::bigint, (c.value ->> 1)::int, c.value ->> 2, (c.value ->> 3)::int,
    (c.value -> 4)::jsonb, (c.value ->> 5)::bigint, nullif((c.value -> 6)::jsonb, 'null')
  from json_array_elements(v_claim.claimed) as c;
end
$$;

comment on function perdure.claim_ready(uuid, text[], text[], int) is
'Leases up to `max` due executions to this worker, by queue in the order given, then priority (the
smaller first), start_at, id. Null queues or tasks: those it registered with; others are refused
(QD026). Report each lease (id, token) with finish() or exchange(). Raises QD007, QD010.';
