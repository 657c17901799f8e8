-- _end_parent: waiting -> finished
-- Locks: none more; the caller holds the waiting row. The one way in which a parked execution ends,
-- so none can forget to tell its parent.

create or replace function perdure._end_parent(
  p_parent perdure.waiting, p_status text, p_output jsonb, p_error jsonb, p_now timestamptz
) returns perdure._telling
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  with gone as (
    delete from perdure.waiting as w where w.id = p_parent.id returning w.*
  )
  insert into perdure.finished (
    id, started_at, finished_at, worker_id, token, attempts, crashes, iteration, status, output,
    error
  )
  select
    g.id, g.started_at, p_now, g.worker_id, g.token, g.attempts + (g.phase <> 'sleep')::int,
    g.crashes, g.iteration, p_status, case when p_status = 'completed' then p_output end,
    case
      when p_status <> 'completed' then coalesce(
        p_error,
        jsonb_build_object('type', 'failed', 'message', 'no error was given', 'retryable', false)
      )
    end
  from gone as g;
  if not found then
    raise exception 'execution % is not waiting', p_parent.id using errcode = 'QD040';
  end if;
  delete from perdure.parked as p where p.id = p_parent.id;
  delete from perdure.step as s where s.parent_id = p_parent.id;
  perform perdure._forget(
    case when p_parent.is_keyed then array[p_parent.id] end,
    case
      when p_parent.deadline_at is not null or p_parent.phase = 'sleep' then array[p_parent.id]
    end,
    p_now
  );
  return case
    when p_parent.parent_id is not null then row(
      p_parent.parent_id, p_parent.parent_generation, 1, (p_status <> 'completed')::int
    )::perdure._telling
  end;
end
$$;

comment on function perdure._end_parent(perdure.waiting, text, jsonb, jsonb, timestamptz) is
'Ends a parked execution; returns what its own parent has to be told (null for a root).';
