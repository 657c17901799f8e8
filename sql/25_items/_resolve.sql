-- Items become executions-to-be, one by one: a loop, since most differ from the one before in
-- nothing but input and key, and are resolved by a copy. Ids are taken here, in the order given; a
-- refused item wastes none.

create or replace function perdure._resolve(p_items jsonb, p_now timestamptz)
returns perdure._item[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_items perdure._item[] := '{}';
  v_n int := 0;
  v_given jsonb;
  v_options jsonb;
  v_resolved_options jsonb;
  v_resolved perdure._item;
  v_item perdure._item;
begin
  for v_given in select i.item from jsonb_array_elements(p_items) as i (item) loop
    if jsonb_typeof(v_given) <> 'object' then
      v_given := '{}';
    end if;
    v_options := v_given - 'input';
    if jsonb_typeof(v_given -> 'key') = 'string' then
      v_options := v_options - 'key';
    end if;
    if v_options is distinct from v_resolved_options then
      v_resolved := perdure._resolved(perdure._options(v_options, p_now), p_now);
      v_resolved_options := v_options;
    end if;
    v_item := v_resolved;
    v_item.input := coalesce(v_given -> 'input', '{}');
    v_item.key := v_given ->> 'key';
    if v_item.key is not null or v_item.is_sleeping or perdure._exceeds(v_item.input, v_limit) then
      v_item := perdure._judged(v_item);
    end if;
    if v_item.code is null then
      v_item.id := nextval('perdure.execution_id_seq');
    end if;
    v_n := v_n + 1;
    v_items[v_n] := v_item;
  end loop;
  return v_items;
end
$$;

comment on function perdure._resolve(jsonb, timestamptz) is
'The items of a JSON array with every field resolved, in order; each judged alone.';
