-- _decrement: waiting -> any
-- One parent, told once.
-- Locks: its waiting row; who is not patient leaves a locked one to closing. A counter that does
-- not match is reported and set from the children: damage must not fail the batch that found it.

create or replace function perdure._decrement(
  p_told perdure._telling, p_is_patient boolean, p_now timestamptz,
  out begun int, out telling perdure._telling
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_parent perdure.waiting;
  v_had_failed boolean;
  v_step record;
  v_amount int := p_told.amount;
begin
  begun := 0;
  if p_is_patient then
    select w.* into v_parent
    from perdure.waiting as w
    where w.id = p_told.parent_id and w.generation = p_told.generation
    for no key update;
  else
    select w.* into v_parent
    from perdure.waiting as w
    where w.id = p_told.parent_id and w.generation = p_told.generation
    for no key update skip locked;
    insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
    select
      case when p_told.amount is null then 'recount' else 'tell' end, w.id, w.generation,
      p_told.amount, p_told.failures, p_now + interval '100 milliseconds'
    from perdure.waiting as w
    where v_parent.id is null and w.id = p_told.parent_id and w.generation = p_told.generation;
  end if;
  if v_parent.id is null then
    return;
  end if;
  if p_told.amount is null or v_parent.active < p_told.amount then
    v_amount := v_parent.active - perdure._live_children(v_parent);
    raise warning 'the counter of execution % was %, its live children are %; repaired',
      v_parent.id, v_parent.active, v_parent.active - v_amount;
  end if;
  v_had_failed := v_parent.has_failed;
  v_parent.active := v_parent.active - v_amount;
  v_parent.has_failed := v_had_failed or p_told.failures > 0;
  if v_parent.active = 0 then  -- what comes next writes the row, or takes it away
    select c.* into v_step from perdure._children_finished(v_parent, p_now) as c;
    begun := v_step.begun;
    telling := v_step.telling;
    return;
  end if;
  if v_amount <> 0 or p_told.failures > 0 then
    update perdure.waiting as w
    set active = v_parent.active, has_failed = v_parent.has_failed
    where w.id = v_parent.id;
  end if;
  if v_parent.is_fail_fast and v_parent.has_failed and not v_had_failed then
    insert into perdure.closing (kind, execution_id, generation, position, status, error, due_at)
    values (
      'end', v_parent.id, v_parent.generation, -1, 'cancelled',
      jsonb_build_object(
        'type', 'cancelled', 'message', 'a sibling failed and the parent fails fast',
        'retryable', false
      ),
      p_now
    );
    begun := 1;
  end if;
end
$$;

comment on function perdure._decrement(perdure._telling, boolean, timestamptz) is
'Applies one telling. begun: executions that began, or work left in closing; telling: what the
parent, if it ended, has to tell its own parent.';
