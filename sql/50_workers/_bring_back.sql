-- Rows set aside stand in the line again once a live worker of their queue knows their task.
-- Locks: rows of ready, SKIP LOCKED.

create or replace function perdure._bring_back(p_queues text[], p_tasks text[], p_max int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_count int;
begin
  update perdure.ready as r
  set is_aside = false
  where r.id = any(array(
    select x.id
    from perdure.ready as x
    where x.is_aside and x.queue = any(p_queues) and (p_tasks is null or x.task = any(p_tasks))
    limit p_max
    for update skip locked
  ));
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

comment on function perdure._bring_back(text[], text[], int) is
'Puts up to p_max executions of these queues and tasks (null: all) back into the line.';
