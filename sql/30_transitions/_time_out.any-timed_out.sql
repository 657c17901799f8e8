-- _time_out: any -> timed_out
-- One execution whose moment in deadline has come.
-- Locks: SKIP LOCKED only, for it runs in a row with others: what is locked is left to closing.

create or replace function perdure._time_out(
  p_id bigint, p_now timestamptz, p_limit int, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_is_deadline boolean;
  v_error jsonb;
  v_ended record;
  v_below record;
begin
  amount := 1;
  select e.deadline_at <= p_now into v_is_deadline from perdure.execution as e where e.id = p_id;
  v_error := jsonb_build_object(
    'type', case when v_is_deadline then 'deadline_exceeded' else 'timed_out' end,
    'message', case
      when v_is_deadline then 'the deadline has passed' else 'nobody woke it in time'
    end,
    'retryable', false
  );
  select l.* into v_ended from perdure._end_live(array[p_id], 'timed_out', v_error, p_now) as l;
  tellings := v_ended.tellings;
  if v_ended.parents is not null then
    select d.* into v_below
    from perdure._end_descendants(
      v_ended.parents, null, null,
      jsonb_build_object(
        'type', 'cancelled', 'retryable', false,
        'message', format('execution %s ended timed_out', p_id)
      ),
      p_limit, p_now
    ) as d;
    amount := amount + v_below.amount;
    tellings := tellings || v_below.tellings;
  end if;
  if v_ended.ended is null and not exists (select from perdure.finished as f where f.id = p_id) then
    insert into perdure.closing (kind, execution_id, status, error, due_at)
    values ('end', p_id, 'timed_out', v_error, p_now);
  end if;
end
$$;

comment on function perdure._time_out(bigint, timestamptz, int) is
'Ends one execution as timed_out, or leaves that to closing. amount: executions looked at, about
p_limit at most; tellings: for decrement_parents().';
