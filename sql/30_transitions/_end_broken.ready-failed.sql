-- _end_broken: ready -> failed
-- An execution whose facts are gone ends alone; its parent is told later, its turn given back.
-- Locks: none but new rows; the caller has taken the rows out of ready.

create or replace function perdure._end_broken(p_rows perdure.ready[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  insert into perdure.finished (
    id, finished_at, token, attempts, crashes, iteration, status, error
  )
  select r.id, p_now, r.token + 1, r.attempts, r.crashes, r.iteration, 'failed',
    jsonb_build_object(
      'type', 'no_facts', 'message', 'the row in perdure.execution is missing',
      'retryable', false
    )
  from unnest(p_rows) as r;
  insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
  select 'tell', r.parent_id, r.parent_generation, 1, 1, p_now
  from unnest(p_rows) as r
  where r.parent_id is not null;
  insert into perdure.closing (kind, execution_id, due_at)
  select 'turn', r.id, p_now from unnest(p_rows) as r where r.shard is not null;
end
$$;

comment on function perdure._end_broken(perdure.ready[], timestamptz) is
'Ends executions without a row in perdure.execution as failed, with an error of type no_facts.';
