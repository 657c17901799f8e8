-- What the counter of a waiting parent ought to be.

create or replace function perdure._live_children(p_parent perdure.waiting) returns int
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select (
    select count(*)
    from perdure.execution as e
    where e.parent_id = p_parent.id
      and e.parent_generation = p_parent.generation
      and e.is_finalize = (p_parent.phase = 'finalize')
      and (p_parent.phase <> 'steps' or e.position = p_parent.step)
      and not exists (select from perdure.finished as f where f.id = e.id)
  )::int + (  -- ended, but not yet told
    select coalesce(sum(c.amount), 0)
    from perdure.closing as c
    where c.kind = 'tell' and c.execution_id = p_parent.id and c.generation = p_parent.generation
  )::int
$$;

comment on function perdure._live_children(perdure.waiting) is
'Children of the parent''s generation and phase that have not told it yet.';
