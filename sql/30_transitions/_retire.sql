-- The end of what has ended: facts, outcome and history go together.
-- Locks: rows of finished, SKIP LOCKED: who has one has its execution to itself.

create or replace function perdure._retire(p_ids bigint[], p_until timestamptz) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_ids bigint[];
begin
  if cardinality(p_ids) = 0 then
    return 0;
  end if;
  with gone as (
    delete from perdure.finished as f
    where f.id = any(array(
      select x.id
      from perdure.finished as x
      where x.id = any(p_ids) and x.finished_at < p_until
      for update skip locked
    ))
    returning f.id
  )
  select array_agg(g.id) into v_ids from gone as g;
  if v_ids is null then
    return 0;
  end if;
  delete from perdure.attempt as a where a.execution_id = any(v_ids);
  delete from perdure.execution as e where e.id = any(v_ids);
  return cardinality(v_ids);
end
$$;

comment on function perdure._retire(bigint[], timestamptz) is
'Deletes those of the executions that ended before p_until and are not locked; returns how many.';
