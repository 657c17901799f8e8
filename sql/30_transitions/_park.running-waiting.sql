-- _park: running -> waiting
-- And its children, or its first step: new -> ready, scheduled or sleeping.
-- Locks: keys of the children, in order. All or nothing: a child that is refused leaves no trace of
-- its siblings, and the parent fails with that reason.

create or replace function perdure._park(
  p_row perdure.running, p_outcome jsonb, p_now timestamptz, p_limit int,
  out code text, out message text, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_children jsonb := coalesce(p_outcome -> 'children', '[]');
  v_output jsonb := nullif(p_outcome -> 'output', 'null');
  v_finalize jsonb := nullif(p_outcome -> 'finalize', 'null');
  v_is_sequence boolean := coalesce(p_outcome -> 'sequential' = 'true', false);
  v_amount int;
  v_accepted record;
  v_generation int := perdure._next_generation(p_row.id);
begin
  if jsonb_typeof(v_children) <> 'array' then
    code := 'QD027';
    message := 'children have to be a JSON array of items';
    return;
  elsif perdure._exceeds(v_output, p_limit) then
    code := 'QD022';
    message := format('the parent''s output exceeds the limit of %s bytes', p_limit);
    return;
  end if;
  v_amount := jsonb_array_length(v_children);
  v_is_sequence := v_is_sequence and v_amount > 0;
  if v_is_sequence
    and jsonb_typeof(v_children -> 0) = 'object'
    and not v_children -> 0 ? 'input'
  then
    v_children := jsonb_set(v_children, '{0,input}', coalesce(v_output, 'null'));
  end if;
  v_accepted := perdure._accept_children(
    v_children, v_finalize, v_is_sequence, p_now, p_row.id
  );
  if v_accepted.code is not null then
    code := v_accepted.code;
    message := v_accepted.message;
    return;
  end if;
  insert into perdure.waiting (
    id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, step,
    worker_id, token, attempts, crashes, iteration, is_keyed, is_fail_fast, phase, task
  )
  values (
    p_row.id, p_now, p_row.started_at, p_row.deadline_at, p_row.parent_id, p_row.parent_generation,
    v_generation, case when v_is_sequence then 1 else v_amount end,
    case when v_is_sequence then 0 end, p_row.worker_id,
    p_row.token, p_row.attempts, p_row.crashes, p_row.iteration, p_row.is_keyed,
    coalesce(p_outcome -> 'fail_fast' = 'true', false),
    case when v_is_sequence then 'steps' else 'children' end, p_row.task
  );
  if v_output is not null or v_finalize is not null then
    insert into perdure.parked (id, output, finalize) values (p_row.id, v_output, v_finalize);
  end if;
  if v_is_sequence then
    insert into perdure.step (parent_id, position, item)
    select p_row.id, c.n - 1, c.item
    from jsonb_array_elements(v_children) with ordinality as c (item, n)
    where c.n > 1;
  end if;
  if v_accepted.items is null then
    perform perdure._insert_alike(
      v_accepted.alike,
      case when v_is_sequence then jsonb_build_array(v_children -> 0) else v_children end, p_now,
      p_row.id, v_generation, 0
    );
  else
    perform perdure._insert(v_accepted.items, p_now, p_row.id, v_generation, 0);
  end if;
  if p_row.is_keyed then
    perform perdure._let_pass(array[p_row.id], p_now);
  end if;
  if v_amount = 0 then  -- nobody will ever tell it: it tells itself
    tellings := array[row(p_row.id, v_generation, 0, 0)::perdure._telling];
  end if;
end
$$;

comment on function perdure._park(perdure.running, jsonb, timestamptz, int) is
'Parks a parent that spawned children (or steps, or nothing but a finalize). code and message when a
child was refused: then nothing was written.';
