-- _expire_deadlines: any -> timed_out
-- Any live status, by a deadline or a sleeper's time-out.
-- Locks: one row of deadline after the other, and after each the room rows of its execution and the
-- descendants; all SKIP LOCKED. A row of deadline that it locked it deletes: _forget relies on
-- that.

create or replace function perdure._expire_deadlines(
  p_max int, p_limit int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_id bigint;
  v_ids bigint[];
  v_ended record;
  v_limit int := p_limit;
begin
  v_ids := array(
    select d.id
    from perdure.deadline as d
    where d.at <= p_now
    order by d.at, d.id
    limit p_max
  );
  amount := 0;
  foreach v_id in array v_ids loop  -- bounded by p_max
    exit when v_limit <= 0;
    perform from perdure.deadline as d where d.id = v_id for update skip locked;
    continue when not found;
    select t.* into v_ended from perdure._time_out(v_id, p_now, v_limit) as t;
    delete from perdure.deadline as d where d.id = v_id;
    v_limit := v_limit - v_ended.amount;
    tellings := tellings || v_ended.tellings;
    amount := amount + 1;
  end loop;
end
$$;

comment on function perdure._expire_deadlines(int, int, timestamptz) is
'Ends what is past its moment in deadline: at most p_max, and about p_limit with their descendants;
amount: how many.';
