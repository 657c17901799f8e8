-- Items become executions-to-be, one by one: a loop, since most differ from the one before in
-- nothing but input and key, and then there is little left to do. Ids are taken here, in the order
-- given; a refused item wastes none.

create or replace function perdure._resolve(p_items jsonb, p_now timestamptz)
returns perdure._item[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_at int;
  v_options jsonb;
  v_input jsonb;
  v_key text;
  v_resolved_options jsonb;
  v_item perdure._item;
  v_judged perdure._item;
  v_items perdure._item[] := '{}';
begin
  for v_at, v_options, v_input, v_key in
    select
      i.n,
      case jsonb_typeof(i.item) when 'object' then i.item - 'input' else '{}' end,
      i.item -> 'input',
      case jsonb_typeof(i.item -> 'key') when 'string' then i.item ->> 'key' end
    from jsonb_array_elements(p_items) with ordinality as i (item, n)
  loop
    if v_key is not null then
      v_options := v_options - 'key';
    end if;
    if v_options is distinct from v_resolved_options then
      v_item := perdure._resolved(perdure._options(v_options, p_now), p_now);
      v_resolved_options := v_options;
    end if;
    v_item.input := coalesce(v_input, '{}');
    v_item.key := v_key;
    if v_item.is_sleeping or not perdure._is_name(v_key) or perdure._exceeds(v_input, v_limit) then
      v_judged := perdure._judged(v_item);
      v_judged.id := case
        when v_judged.code is null then nextval('perdure.execution_id_seq')
      end;
      v_items[v_at] := v_judged;
    else
      if v_item.code is null then
        v_item.id := nextval('perdure.execution_id_seq');
      end if;
      v_items[v_at] := v_item;
    end if;
  end loop;
  return v_items;
end
$$;

comment on function perdure._resolve(jsonb, timestamptz) is
'The items of a JSON array with every field resolved, in order; each judged alone.';
