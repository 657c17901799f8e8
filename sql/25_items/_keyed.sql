-- An item with a key: it takes the key, or stands for the execution that has it, or is refused.

create or replace function perdure._keyed(
  p_item perdure._item, p_earlier perdure._item, p_now timestamptz
) returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_holder bigint := perdure._take_key(p_item, p_now);
  v_task text := p_earlier.task;
  v_input jsonb := p_earlier.input;
begin
  if v_holder = p_item.id then
    return p_item;
  elsif v_holder is distinct from p_earlier.id then
    select e.task, e.input into v_task, v_input
    from perdure.execution as e
    where e.id = v_holder;
  end if;
  p_item.id := v_holder;
  p_item.is_taken := true;
  if v_task <> p_item.task or v_input <> p_item.input then
    p_item.code := 'QD003';
    p_item.message := format(
      'key %s is held by execution %s, which has another task or input', p_item.key, v_holder
    );
  end if;
  return p_item;
end
$$;

comment on function perdure._keyed(perdure._item, perdure._item, timestamptz) is
'The item with its key taken; is_taken and the holder''s id where another execution has the key;
code QD003 where that one is another request. p_earlier: an item of the same call, not yet written,
that may have it.';
