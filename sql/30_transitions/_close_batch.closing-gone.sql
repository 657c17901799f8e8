-- _close_batch: closing -> gone
-- Locks: rows of closing, SKIP LOCKED; room rows, SKIP LOCKED. What it still cannot do it writes
-- down again.

create or replace function perdure._close_batch(
  p_max int, p_limit int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_limit int := p_limit;
  v_debts perdure.closing[];
  v_debt perdure.closing;
  v_paid record;
begin
  with gone as (
    delete from perdure.closing as c
    where c.id = any(array(
      select x.id
      from perdure.closing as x
      where x.due_at <= p_now
      order by x.id
      limit p_max
      for update skip locked
    ))
    returning c.*
  )
  select array_agg(row(g.*)::perdure.closing order by g.id) into v_debts from gone as g;
  if v_debts is null then
    amount := 0;
    return;
  end if;
  foreach v_debt in array v_debts loop  -- bounded by p_max
    if v_debt.kind in ('tell', 'recount') then  -- a recount has no amount
      tellings := tellings || row(
        v_debt.execution_id, v_debt.generation, v_debt.amount, v_debt.failures
      )::perdure._telling;
    elsif v_debt.kind = 'turn' then
      if perdure._give_back(array[v_debt.execution_id], p_now) is not null then
        perform perdure._notify_ready();
      end if;
    else
      select p.* into v_paid from perdure._end_owed(v_debt, greatest(v_limit, 0), p_now) as p;
      v_limit := v_limit - v_paid.amount;
      tellings := tellings || v_paid.tellings;
    end if;
  end loop;
  amount := cardinality(v_debts);
end
$$;

comment on function perdure._close_batch(int, int, timestamptz) is
'Takes up to p_max debts out of closing, and ends about p_limit executions for them; amount: how
many debts.';
