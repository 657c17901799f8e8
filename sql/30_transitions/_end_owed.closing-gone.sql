-- _end_owed: closing -> gone
-- One debt of kind `end`: the execution itself, if it lives, and then its descendants.
-- Locks: room rows, SKIP LOCKED. A debt with a position is about the children only: the execution
-- has ended, or (fail_fast) it waits and stays.

create or replace function perdure._end_owed(
  p_debt perdure.closing, p_limit int, p_now timestamptz,
  out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_ended record;
  v_below record;
  v_nodes bigint[] := array[p_debt.execution_id];
begin
  amount := 1;
  if p_debt.generation is null
    and not exists (select from perdure.finished as f where f.id = p_debt.execution_id)
  then
    select l.* into v_ended
    from perdure._end_live(v_nodes, p_debt.status, p_debt.error, p_now) as l;
    v_nodes := v_ended.parents;
    tellings := v_ended.tellings;
    if v_ended.ended is null and exists (
      select from perdure.execution as e where e.id = p_debt.execution_id
    ) and not exists (
      select from perdure.finished as f where f.id = p_debt.execution_id
    ) then  -- still locked by another transaction, or on its way: owe it on
      insert into perdure.closing (kind, execution_id, status, error, due_at)
      values (
        'end', p_debt.execution_id, p_debt.status, p_debt.error, p_now + interval '100 milliseconds'
      );
    end if;
  end if;
  if v_nodes is not null then
    select d.* into v_below
    from perdure._end_descendants(
      v_nodes, p_debt.generation, p_debt.position, p_debt.error, p_limit, p_now
    ) as d;
    amount := amount + v_below.amount;
    tellings := tellings || v_below.tellings;
  end if;
end
$$;

comment on function perdure._end_owed(perdure.closing, int, timestamptz) is
'Works off one debt; amount: executions looked at.';
