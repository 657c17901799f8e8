-- What a finalize reads: the outcomes of the children, in the order given, page by page. Nearly all
-- of them have ended; the view of all rooms is asked for the others alone. The limits in the
-- laterals keep the planner from joining rooms: each child is a probe by id.

create or replace function perdure.children(
  parent bigint, generation int default null, after int default -1, max int default 1000
) returns table ("position" int, id bigint, task text, status text, output jsonb, error jsonb)
language plpgsql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  select
    c.position, c.id, c.task, coalesce(f.status, x.status), coalesce(f.output, x.output),
    coalesce(f.error, x.error)
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
    select o.status, o.output, o.error from perdure.finished as o where o.id = c.id limit 1
  ) as f on true
  left join lateral (
    select y.status, y.output, y.error
    from perdure.executions as y
    where f.status is null and y.id = c.id
    limit 1
  ) as x on true
  order by c.position;
end
$$;

comment on function perdure.children(bigint, int, int, int) is
'Children of a parent after position `after`, at most `max`, without its finalize; of the generation
given, else of the youngest.';
