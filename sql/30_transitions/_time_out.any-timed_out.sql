-- _time_out: any -> timed_out
-- Executions whose moment in deadline has come, for one reason.
-- Locks: SKIP LOCKED only, for it runs in a row with others: what is locked is left to closing.

create or replace function perdure._time_out(
  p_ids bigint[], p_type text, p_message text, p_limit int, p_now timestamptz,
  out amount int, out tellings perdure._telling[]
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
  v_error jsonb := jsonb_build_object(
    'type', p_type, 'message', p_message, 'retryable', false
  );
  v_ended record;
  v_below record;
  v_parent bigint;
begin
  amount := 0;
  if cardinality(p_ids) = 0 then
    return;
  end if;
  select l.* into v_ended from perdure._end_live(p_ids, 'timed_out', v_error, p_now) as l;
  tellings := v_ended.tellings;
  foreach v_parent in array coalesce(v_ended.parents, '{}') loop  -- each its children's reason
    select d.* into v_below
    from perdure._end_descendants(
      array[v_parent], null, null,
      jsonb_build_object(
        'type', 'cancelled', 'retryable', false,
        'message', format('execution %s ended timed_out', v_parent)
      ),
      greatest(p_limit - amount, 0), p_now
    ) as d;
    amount := amount + v_below.amount;
    tellings := tellings || v_below.tellings;
  end loop;
  insert into perdure.closing (kind, execution_id, status, error, due_at)
  select 'end', i.id, 'timed_out', v_error, p_now
  from unnest(p_ids) as i (id)
  where i.id <> all(coalesce(v_ended.ended, '{}'))
    and not exists (select from perdure.finished as f where f.id = i.id);
end
$$;

comment on function perdure._time_out(bigint[], text, text, int, timestamptz) is
'Ends executions as timed_out, or leaves that to closing. amount: descendants looked at, about
p_limit at most; tellings: for decrement_parents().';
