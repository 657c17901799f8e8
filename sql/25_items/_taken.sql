-- An item whose key another execution has: it stands for that one, or is refused.

create or replace function perdure._taken(
  p_item perdure._item, p_holder bigint, p_earlier perdure._item
) returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_task text := p_earlier.task;
  v_input jsonb := p_earlier.input;
begin
  if p_holder is distinct from p_earlier.id then
    select e.task, e.input into v_task, v_input
    from perdure.execution as e
    where e.id = p_holder;
  end if;
  p_item.id := p_holder;
  p_item.is_taken := true;
  if v_task <> p_item.task or v_input <> p_item.input then
    p_item.code := 'QD003';
    p_item.message := format(
      'key %s is held by execution %s, which has another task or input', p_item.key, p_holder
    );
  end if;
  return p_item;
end
$$;

comment on function perdure._taken(perdure._item, bigint, perdure._item) is
'The item with is_taken and the id of the execution that has its key; code QD003 where that one is
another request. p_earlier: an item of the same call, not yet written, that may be the holder.';
