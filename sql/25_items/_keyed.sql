-- An item with a key: it takes the key, or stands for the execution that has it, or is refused.

create or replace function perdure._keyed(
  p_item perdure._item, p_batch perdure._item[], p_now timestamptz
) returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_holder bigint := perdure._take_key(p_item, p_now);
  v_is_same boolean;
begin
  if v_holder = p_item.id then
    return p_item;
  end if;
  select h.task = p_item.task and h.input = p_item.input into v_is_same
  from (
    select e.task, e.input from perdure.execution as e where e.id = v_holder
    union all
    -- an earlier item of this very batch, not yet written
    select b.task, b.input from unnest(p_batch) as b where b.id = v_holder and not b.is_taken
    limit 1
  ) as h;
  p_item.id := v_holder;
  p_item.is_taken := true;
  if not v_is_same then
    p_item.code := 'QD003';
    p_item.message := format(
      'key %s is held by execution %s, which has another task or input', p_item.key, v_holder
    );
  end if;
  return p_item;
end
$$;

comment on function perdure._keyed(perdure._item, perdure._item[], timestamptz) is
'The item with its key taken; is_taken and the holder''s id where another execution has the key;
code QD003 where that one is another request.';
