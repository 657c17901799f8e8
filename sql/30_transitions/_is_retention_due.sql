-- Whether the walk of retention has somewhere to go.

create or replace function perdure._is_retention_due(p_now timestamptz) returns boolean
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return (
    select c.retention is not null and r.next_at <= p_now and (
      r.cursor > 0 or r.node is not null or coalesce(
        (
          select e.created_at from perdure.execution as e order by e.id limit 1
        ) < p_now - c.retention,
        false
      )
    )
    from perdure.config as c
    cross join perdure.retention as r
  );
end
$$;

comment on function perdure._is_retention_due(timestamptz) is
'True when config.retention is set and there may be something that it does not keep.';
