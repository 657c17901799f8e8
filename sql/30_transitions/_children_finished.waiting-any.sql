-- _children_finished: waiting -> any
-- The next step, or finalize, or an end.
-- Locks: none but new rows; the caller holds the parent's waiting row, whose counter is 0. Whatever
-- cannot be built ends this parent alone.

create or replace function perdure._children_finished(
  p_parent perdure.waiting, p_now timestamptz, out begun int, out telling perdure._telling
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_parked perdure.parked;
  v_task text;
  v_status text;
  v_output jsonb;
  v_error jsonb;
  v_reason text;
begin
  begun := 1;
  select p.* into v_parked from perdure.parked as p where p.id = p_parent.id;
  if p_parent.phase in ('steps', 'finalize') then
    select c.task, c.status, c.output, c.error into v_task, v_status, v_output, v_error
    from perdure._child(p_parent.id, p_parent.generation, p_parent.step) as c;
  end if;
  if p_parent.phase = 'steps' and v_status = 'completed' and exists (
    select from perdure.step as s where s.parent_id = p_parent.id
  ) then
    v_reason := perdure._next_step(p_parent, v_output, p_now);
    if v_reason is null then
      return;
    end if;
  elsif p_parent.phase <> 'finalize' and v_parked.finalize is not null then
    v_reason := perdure._begin_finalize(p_parent, v_parked.finalize, p_now);
    if v_reason is null then
      return;
    end if;
  end if;
  -- others may come into the line behind its shard key
  begun := (p_parent.is_keyed and exists (
    select from perdure.turn as t where t.id = p_parent.id
  ))::int;
  if v_reason is not null then
    v_status := 'failed';
    v_error := jsonb_build_object(
      'type', 'invalid_child', 'code', 'QD027', 'message', v_reason, 'retryable', false
    );
  elsif p_parent.phase = 'finalize' and v_status is distinct from 'completed' then
    v_status := 'finalize_failed';
  elsif p_parent.phase = 'steps' and v_status is distinct from 'completed' then
    v_error := jsonb_build_object(
      'type', 'child_failed', 'retryable', false, 'message', format(
        'step %s (%s) %s: %s', p_parent.step, v_task, v_status, left(v_error ->> 'message', 10000)
      )
    );
    v_status := 'finalize_failed';
  elsif p_parent.phase = 'children' and p_parent.is_fail_fast and p_parent.has_failed then
    v_status := 'failed';
    v_error := jsonb_build_object(
      'type', 'child_failed', 'message', 'a child did not complete', 'retryable', false
    );
  elsif p_parent.phase = 'children' then
    v_status := 'completed';
    v_output := v_parked.output;
  end if;
  telling := perdure._end_parent(p_parent, v_status, v_output, v_error, p_now);
end
$$;

comment on function perdure._children_finished(perdure.waiting, timestamptz) is
'What comes after the last child of a parent: its next step, its finalize, or its end.';
