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
