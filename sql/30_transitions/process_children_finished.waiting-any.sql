-- process_children_finished: waiting -> any
-- The next phase, or an end.
-- Locks: the parent's waiting row, then its ancestors' upwards. The last child's own transaction
-- does this already; here it can be done by hand, and it refuses while a child lives.

create or replace function perdure.process_children_finished(parent bigint) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_parent perdure.waiting;
begin
  perform perdure._require_read_committed();
  select w.* into v_parent from perdure.waiting as w where w.id = parent for no key update;
  if v_parent.id is null and not exists (
    select from perdure.execution as e where e.id = parent
  ) then
    raise exception 'there is no execution %', parent using errcode = 'QD001';
  elsif v_parent.id is null or v_parent.phase = 'sleep' or v_parent.active > 0 then
    raise exception 'execution % does not wait for ended children (% of them live)',
      parent, coalesce(v_parent.active, 0)
      using errcode = 'QD011';
  end if;
  perform perdure.decrement_parents(array[parent], array[v_parent.generation], array[0], array[0]);
  return (select x.status from perdure.executions as x where x.id = parent);
end
$$;

comment on function perdure.process_children_finished(bigint) is
'Moves a parent on whose children have all ended, and returns its status afterwards. Raises QD001,
QD010, QD011 (it is not waiting, or a child lives).';
