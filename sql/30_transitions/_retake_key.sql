-- A redriven execution has its key again, or cannot be redriven.

create or replace function perdure._retake_key(p_fact perdure.execution, p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_item perdure._item;
  v_holder bigint;
begin
  if p_fact.key is null then
    return;
  end if;
  update perdure.key as k set until = null where k.id = p_fact.id;
  if found then
    return;
  end if;
  v_item.id := p_fact.id;
  v_item.key := p_fact.key;
  v_item.key_scope := p_fact.key_scope;
  v_item.keep_ms := 0;
  v_item.is_kept_ever := false;
  v_holder := perdure._take_key(v_item, p_now);
  if v_holder <> p_fact.id then
    raise exception 'the key % of execution % is held by execution %',
      p_fact.key, p_fact.id, v_holder
      using errcode = 'QD003';
  end if;
end
$$;

comment on function perdure._retake_key(perdure.execution, timestamptz) is
'Takes the execution''s key again. Raises QD003 where another live execution has it.';
