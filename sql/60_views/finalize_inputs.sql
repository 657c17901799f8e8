-- What finalizes are given, for several at once: a worker may begin a hundred of them together.

create or replace function perdure.finalize_inputs(
  parents bigint[], generations int[], max int default 1000
) returns table (
  item int, "position" int, id bigint, task text, status text, output jsonb, error jsonb
)
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
  select (g.n - 1)::int, x.position, x.id, x.task, x.status, x.output, x.error
  from unnest(parents, generations) with ordinality as g (parent, generation, n)
  cross join lateral (
    (
      select null::int as position, e.id, e.task, e.status, e.output, null::jsonb as error
      from perdure.executions as e
      where e.id = g.parent
      limit 1
    )
    union all
    select c.position, c.id, c.task, c.status, c.output, c.error
    from perdure.children(g.parent, g.generation, -1, finalize_inputs.max) as c
  ) as x
  order by g.n, x.position nulls first;
end
$$;

comment on function perdure.finalize_inputs(bigint[], int[], int) is
'For each item of the parallel arrays (from 0): the parent (position null) with its own output, then
its first `max` children of that generation, as children() has them. No rows for an unknown one.';
