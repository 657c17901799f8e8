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
  v_next bigint[];
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
  v_next := perdure._forget(
    (select array_agg(g.id) from unnest(v_gone) as g where g.is_keyed),
    (select array_agg(g.id) from unnest(v_gone) as g where g.deadline_at is not null),
    p_now
  );
  if v_next is not null then
    perform perdure._notify_ready();
  end if;
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
