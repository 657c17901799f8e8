-- What a finalize reads: the outcomes of the children, in the order given, page by page. The limit
-- in the lateral keeps the planner from joining the whole view: each child is a probe by id.

create or replace function perdure.children(
  parent bigint, generation int default null, after int default -1, max int default 1000
) returns table ("position" int, id bigint, task text, status text, output jsonb, error jsonb)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select c.position, c.id, c.task, x.status, x.output, x.error
  from (
    select e.position, e.id, e.task
    from perdure.execution as e
    where e.parent_id = children.parent
      and e.parent_generation
      = coalesce(children.generation, perdure._next_generation(children.parent) - 1)
      and e.position > children.after
    order by e.parent_id, e.parent_generation, e.position
    limit children.max
  ) as c
  left join lateral (
    select y.status, y.output, y.error from perdure.executions as y where y.id = c.id limit 1
  ) as x on true
  order by c.position
$$;

comment on function perdure.children(bigint, int, int, int) is
'Children of a parent after position `after`, at most `max`, without its finalize; of the generation
given, else of the youngest.';
