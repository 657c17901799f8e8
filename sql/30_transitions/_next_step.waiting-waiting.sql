-- _next_step: waiting -> waiting
-- And the next step of a sequence, fed with the previous output: new -> ready or sleeping.
-- Locks: none but new rows; the caller holds the parent's waiting row.

create or replace function perdure._next_step(
  p_parent perdure.waiting, p_output jsonb, p_now timestamptz
) returns text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_item jsonb;
  v_items jsonb;
  v_accepted record;
begin
  delete from perdure.step as s
  where s.parent_id = p_parent.id and s.position = p_parent.step + 1
  returning s.item into v_item;
  v_items := jsonb_build_array(jsonb_build_object('input', p_output) || v_item);
  v_accepted := perdure._accept_children(v_items, null, true, p_now, p_parent.id);
  if v_accepted.code is not null then
    return format('step %s: %s', p_parent.step + 1, v_accepted.message);
  elsif v_accepted.items is null then
    perform perdure._insert_alike(
      v_accepted.alike, v_items, p_now, p_parent.id, p_parent.generation, p_parent.step + 1
    );
  else
    perform perdure._insert(
      v_accepted.items, p_now, p_parent.id, p_parent.generation, p_parent.step + 1
    );
  end if;
  update perdure.waiting as w
  set step = w.step + 1, active = 1, has_failed = p_parent.has_failed
  where w.id = p_parent.id;
  return null;
end
$$;

comment on function perdure._next_step(perdure.waiting, jsonb, timestamptz) is
'Begins the next step; the reason, where it cannot begin.';
