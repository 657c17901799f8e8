-- A tree as a person reads it: depth first, children in order, a finalize after them. As in
-- children(), the limit in the last lateral makes a probe of each row.

create or replace function perdure.tree(root bigint, max int default 1000)
returns table (
  id bigint, parent_id bigint, depth int, "position" int, is_finalize boolean, task text,
  status text, attempt int, started_at timestamptz, finished_at timestamptz, error jsonb
)
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
    select e.id, e.parent_id, 0 as depth, e.position, e.is_finalize, e.task,
      array[]::bigint[] as place
    from perdure.execution as e
    where e.id = tree.root
    union all
    select e.id, e.parent_id, n.depth + 1, e.position, e.is_finalize, e.task,
      n.place || array[e.parent_generation, coalesce(e.position, 2147483647)]::bigint[]
    from node as n
    cross join lateral (
      select x.*
      from perdure.execution as x
      where x.parent_id = n.id
      order by x.parent_id, x.parent_generation, x.position
      limit tree.max
    ) as e
  ), listed as (
    select n.* from node as n order by n.place limit tree.max
  )
  select l.id, l.parent_id, l.depth, l.position, l.is_finalize, l.task, x.status, x.attempt,
    x.started_at, x.finished_at, x.error
  from listed as l
  left join lateral (
    select y.status, y.attempt, y.started_at, y.finished_at, y.error
    from perdure.executions as y
    where y.id = l.id
    limit 1
  ) as x on true
  order by l.place
$$;

comment on function perdure.tree(bigint, int) is
'An execution with all its descendants, depth first, at most `max` rows.';
