-- _begin_finalize: waiting -> waiting
-- And the finalize of a parent whose children have all ended: new -> ready.
-- Locks: none but new rows; the caller holds the parent's waiting row. Its input names the parent;
-- the children's outputs are read from there, not copied, so their sum has no limit.

create or replace function perdure._begin_finalize(
  p_parent perdure.waiting, p_finalize jsonb, p_now timestamptz
) returns text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_given jsonb := jsonb_build_array(
    p_finalize || jsonb_build_object(
      'input', jsonb_build_object('parent', p_parent.id, 'generation', p_parent.generation)
    )
  );
  v_alike perdure._item := perdure._template(v_given, p_now);
  v_items perdure._item[];
begin
  if v_alike.task is not null then
    perform perdure._insert_alike(v_alike, v_given, p_now, p_parent.id, p_parent.generation);
  else
    v_items := perdure._resolve(v_given, p_now);
    if (v_items[1]).code is not null then
      return 'finalize: ' || (v_items[1]).message;
    end if;
    perform perdure._insert(v_items, p_now, p_parent.id, p_parent.generation);
  end if;
  update perdure.waiting as w
  set phase = 'finalize', step = null, active = 1, has_failed = p_parent.has_failed
  where w.id = p_parent.id;
  delete from perdure.step as s where s.parent_id = p_parent.id;
  return null;
end
$$;

comment on function perdure._begin_finalize(perdure.waiting, jsonb, timestamptz) is
'Begins the finalize execution; the reason, where it cannot begin.';
