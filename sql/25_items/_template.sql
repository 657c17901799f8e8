-- What a whole batch has in common, where that is all but the inputs: most batches are made by one
-- line of a program. They are looked at as a set; only a batch of another kind is read one by one.

create or replace function perdure._template(p_items jsonb, p_now timestamptz)
returns perdure._item
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_options jsonb := case
    when jsonb_typeof(p_items -> 0) = 'object' then (p_items -> 0) - 'input'
  end;
  v_item perdure._item;
begin
  if v_options ? 'key' is not false or not (
    select bool_and(
      case jsonb_typeof(i.item)
        when 'object' then
          i.item - 'input' = v_options
          and perdure._exceeds(i.item -> 'input', v_limit) is not true
        else false
      end
    )
    from jsonb_array_elements(p_items) as i (item)
  ) then
    return null;
  end if;
  v_item := perdure._resolved(perdure._options(v_options, p_now), p_now);
  if v_item.code is not null or v_item.is_sleeping or v_item.start_at > p_now
    or v_item.shard_key is not null
  then
    return null;
  end if;
  return v_item;
end
$$;

comment on function perdure._template(jsonb, timestamptz) is
'The resolved item that all of these are but for their input, where all are good ones, are due, and
have no key and no shard key; otherwise null.';
