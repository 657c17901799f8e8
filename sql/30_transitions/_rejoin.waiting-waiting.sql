-- _rejoin: waiting -> waiting
-- A redriven child counts again, if its parent still waits for it.
-- Locks: the parent's waiting row.

create or replace function perdure._rejoin(p_fact perdure.execution, p_is_detached boolean)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  if p_fact.parent_id is null then
    return null;
  end if;
  update perdure.waiting as w
  set active = w.active + 1
  where w.id = p_fact.parent_id
    and w.generation = p_fact.parent_generation
    and w.phase = 'children'
    and not p_fact.is_finalize;
  if found then
    return p_fact.parent_id;
  elsif p_is_detached and not p_fact.is_finalize then
    return null;
  end if;
  raise exception 'the parent % of execution % has ended or moved on', p_fact.parent_id, p_fact.id
    using errcode = 'QD005',
      hint = case
        when p_fact.is_finalize then 'Retry the parent: it spawns its children and finalize anew.'
        else 'Retry the parent, or give detach => true: the execution then tells nobody.'
      end;
end
$$;

comment on function perdure._rejoin(perdure.execution, boolean) is
'The parent that will be told of the redriven child; null for none. Raises QD005.';
