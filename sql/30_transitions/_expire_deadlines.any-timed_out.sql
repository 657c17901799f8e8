-- _expire_deadlines: any -> timed_out
-- Any live status, by a deadline or a sleeper's time-out.
-- Locks: rows of deadline, then the room rows of their executions and of the descendants; all SKIP
-- LOCKED. A row of deadline that it locked it deletes: _forget relies on that.

create or replace function perdure._expire_deadlines(
  p_max int, p_limit int, p_now timestamptz, out amount int, out tellings perdure._telling[]
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
  v_ids bigint[];
  v_passed bigint[];
  v_unwoken bigint[];
  v_ended record;
  v_left int := p_limit;
begin
  v_ids := array(
    select d.id
    from perdure.deadline as d
    where d.at <= p_now
    order by d.at
    limit p_max
    for update skip locked
  );
  amount := cardinality(v_ids);
  if amount = 0 then
    return;
  end if;
  delete from perdure.deadline as d where d.id = any(v_ids);
  v_passed := array(
    select e.id from perdure.execution as e where e.id = any(v_ids) and e.deadline_at <= p_now
  );
  v_unwoken := array(select i.id from unnest(v_ids) as i (id) where i.id <> all(v_passed));
  select t.* into v_ended
  from perdure._time_out(
    v_passed, 'deadline_exceeded', 'the deadline has passed', v_left, p_now
  ) as t;
  v_left := v_left - v_ended.amount;
  tellings := v_ended.tellings;
  select t.* into v_ended
  from perdure._time_out(v_unwoken, 'timed_out', 'nobody woke it in time', v_left, p_now) as t;
  tellings := tellings || v_ended.tellings;
end
$$;

comment on function perdure._expire_deadlines(int, int, timestamptz) is
'Ends what is past its moment in deadline: at most p_max, and about p_limit of their descendants;
amount: how many.';
