-- _record: running -> any
-- Completed here, and by way of the files beside this one to every other end, ready, or waiting.
-- Locks: the worker's row (by the caller), then its running rows. A lease that is not held, by id,
-- worker and token, changes nothing. What is found here may be gone a moment later, but nothing can
-- take its place: nobody else leases to this worker, whose row is locked.

create or replace function perdure._record(
  p_worker perdure.worker, p_outcomes jsonb,
  out results jsonb, out tellings perdure._telling[], out rest int, out next bigint[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz := perdure._clock();
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_reported record;
  v_gone bigint[];
  v_rest perdure.running[];
  v_rest_outcomes jsonb[];
  v_keyed bigint[];
  v_timed bigint[];
begin
  if jsonb_typeof(p_outcomes) <> 'array' then
    raise exception 'outcomes have to be a JSON array, got %', jsonb_typeof(p_outcomes)
      using errcode = 'QD028';
  end if;
  v_reported := perdure._reported(p_worker.id, p_outcomes, v_limit);
  with gone as (
    delete from perdure.running as r
    where r.id = any(v_reported.ids)
      and r.worker_id + 0 = p_worker.id  -- the index by worker would be read once for each id
    returning r.id
  )
  select array_agg(g.id) into v_gone from gone as g;
  if cardinality(v_gone) is distinct from cardinality(v_reported.ids) then
    -- somebody else ended one just now; or one was reported twice, and the last report counts
    v_reported := perdure._still_reported(
      v_gone, v_reported.leases, v_reported.places, v_reported.kinds
    );
  end if;
  insert into perdure.finished (
    id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output
  )
  select
    r.id, r.started_at, v_now, r.worker_id, r.token, r.attempts + 1, r.crashes, r.iteration,
    'completed', nullif(p_outcomes -> r.place -> 'output', 'null')
  from unnest(v_reported.leases, v_reported.places, v_reported.kinds) as r (
    id, started_at, expires_at, deadline_at, parent_id, parent_generation, worker_id, token,
    attempts, crashes, iteration, is_keyed, task, input, place, kind
  )
  where r.kind > 0;
  if 2 = any(v_reported.kinds) then
    select
      array_agg(row(r.parent_id, r.parent_generation, 1, 0)::perdure._telling)
        filter (where r.parent_id is not null),
      array_agg(r.id) filter (where r.is_keyed),
      array_agg(r.id) filter (where r.deadline_at is not null)
    into tellings, v_keyed, v_timed
    from unnest(v_reported.leases, v_reported.kinds) as r (
      id, started_at, expires_at, deadline_at, parent_id, parent_generation, worker_id, token,
      attempts, crashes, iteration, is_keyed, task, input, kind
    )
    where r.kind = 2;
    next := perdure._forget(v_keyed, v_timed, v_now);
  end if;
  rest := 0;
  if 0 = any(v_reported.kinds) then
    select
      array_agg(v_reported.leases[r.n] order by v_reported.ids[r.n]),
      array_agg(p_outcomes -> v_reported.places[r.n] order by v_reported.ids[r.n])
    into v_rest, v_rest_outcomes
    from unnest(v_reported.kinds) with ordinality as r (kind, n)
    where r.kind = 0;
    rest := cardinality(v_rest);
    select x.results, _record.tellings || x.tellings into results, tellings
    from perdure._record_rest(v_rest, v_rest_outcomes, v_now, v_limit) as x;
  end if;
  if coalesce(cardinality(v_gone), 0) <> jsonb_array_length(p_outcomes) then
    results := coalesce(results, '[]') || perdure._refusals(p_outcomes, v_gone, v_rest);
  end if;
end
$$;

comment on function perdure._record(perdure.worker, jsonb) is
'Applies a batch of outcomes, each judged alone. results: a JSON array of those that were not
plainly recorded ({id, token, result, code, message}); tellings: what decrement_parents() still has
to do, as the transaction''s last step; rest: how many were not plainly completed;
next: who came into the line behind the same shard keys.';
