-- _children_finished: waiting -> waiting for the next step or for finalize, or an end
-- Locks: none but new rows; the caller holds the parent's waiting row, whose counter is 0. Whatever
-- cannot be built ends this parent alone.

create or replace function perdure._children_finished(
  p_parent perdure.waiting, p_now timestamptz, out begun int, out telling perdure._telling
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
  v_parked perdure.parked;
  v_last record;
  v_failure text;
begin
  begun := 0;
  select p.* into v_parked from perdure.parked as p where p.id = p_parent.id;
  if p_parent.phase = 'finalize' then
    select c.* into v_last
    from perdure._child(p_parent.id, p_parent.generation, null) as c;
    telling := perdure._end_parent(
      p_parent, case v_last.status when 'completed' then 'completed' else 'finalize_failed' end,
      v_last.output, v_last.error, p_now
    );
    return;
  end if;
  if p_parent.phase = 'steps' then
    select c.* into v_last
    from perdure._child(p_parent.id, p_parent.generation, p_parent.step) as c;
    if v_last.status = 'completed' and exists (
      select from perdure.step as s where s.parent_id = p_parent.id
    ) then
      v_failure := perdure._next_step(p_parent, v_last.output, p_now);
      begun := 1;
      if v_failure is null then
        return;
      end if;
    end if;
  end if;
  if v_failure is null and v_parked.finalize is not null then
    v_failure := perdure._begin_finalize(p_parent, v_parked.finalize, p_now);
    begun := 1;
    if v_failure is null then
      return;
    end if;
  end if;
  begun := 0;
  telling := case
    when v_failure is not null then perdure._end_parent(
      p_parent, 'failed', null,
      jsonb_build_object(
        'type', 'invalid_child', 'code', 'QD027', 'message', v_failure, 'retryable', false
      ), p_now
    )
    when p_parent.phase = 'steps' and v_last.status = 'completed' then
      perdure._end_parent(p_parent, 'completed', v_last.output, null, p_now)
    when p_parent.phase = 'steps' then perdure._end_parent(
      p_parent, 'finalize_failed', null,
      jsonb_build_object(
        'type', 'child_failed', 'retryable', false,
        'message', format('step %s (%s) %s: %s', p_parent.step, v_last.task, v_last.status,
          left(v_last.error ->> 'message', 10000))
      ), p_now
    )
    when p_parent.is_fail_fast and p_parent.has_failed then perdure._end_parent(
      p_parent, 'failed', null,
      jsonb_build_object(
        'type', 'child_failed', 'message', 'a child did not complete', 'retryable', false
      ), p_now
    )
    else perdure._end_parent(p_parent, 'completed', v_parked.output, null, p_now)
  end;
end
$$;

comment on function perdure._children_finished(perdure.waiting, timestamptz) is
'What comes after the last child of a parent: its next step, its finalize, or its end.';
