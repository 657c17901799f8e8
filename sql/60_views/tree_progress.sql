-- How far a tree is, in numbers.

create or replace function perdure.tree_progress(root bigint)
returns table (status text, executions bigint)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  with recursive node as (
    select e.id from perdure.execution as e where e.id = tree_progress.root
    union all
    select e.id
    from node as n
    cross join lateral (
      select x.id from perdure.execution as x where x.parent_id = n.id
    ) as e
  )
  select s.status, count(*)
  from node as n
  cross join lateral (
    select coalesce(
      (select f.status from perdure.finished as f where f.id = n.id),
      (select x.status from perdure.executions as x where x.id = n.id)
    ) as status
  ) as s
  group by s.status
  order by s.status
$$;

comment on function perdure.tree_progress(bigint) is
'Executions of a tree by status, the root included.';
