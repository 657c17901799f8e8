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
set plan_cache_mode = force_generic_plan
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
    select l.*, e.queue, e.priority, e.shard_key, e.input as first_input,
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
      select x.* from perdure.execution as x where x.id = l.id limit 1
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
        j.input, j.shard_key
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
