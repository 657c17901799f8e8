-- _record: running -> any
-- Completed here, and by way of the files beside this one to every other end, ready, or waiting.
-- Locks: the worker's row (by the caller), then its running rows. A lease that is not held, by id,
-- worker and token, changes nothing.

create or replace function perdure._record(
  p_worker perdure.worker, p_outcomes jsonb,
  out results jsonb, out tellings perdure._telling[], out rest int, out next bigint[]
)
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
    next := perdure._forget(v_keyed, v_timed, v_now);
  end if;
  rest := coalesce(cardinality(v_rest), 0);
  if rest > 0 then
    select x.results, _record.tellings || x.tellings into results, tellings
    from perdure._record_rest(v_rest, v_by_lease, v_now, v_limit) as x;
  end if;
  if coalesce(cardinality(v_done), 0) + rest <> jsonb_array_length(p_outcomes) then
    results := coalesce(results, '[]') || perdure._refusals(p_outcomes, v_done, v_rest);
  end if;
end
$$;

comment on function perdure._record(perdure.worker, jsonb) is
'Applies a batch of outcomes, each judged alone. results: a JSON array of those that were not
plainly recorded ({id, token, result, code, message}); tellings: what decrement_parents() still has
to do, as the transaction''s last step; rest: how many were not plainly completed;
next: who came into the line behind the same shard keys.';
