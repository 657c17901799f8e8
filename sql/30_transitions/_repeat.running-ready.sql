-- _repeat: running -> ready
-- Or scheduled: `again`. Attempts and crashes start anew.
-- Locks: none but the new rows.

create or replace function perdure._repeat(
  p_rows perdure.running[], p_delays bigint[], p_now timestamptz
) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_next perdure.scheduled[];
begin
  select array_agg(
    row(
      r.id, p_now + p_delays[r.ordinality] * interval '1 millisecond', r.deadline_at, r.parent_id,
      r.parent_generation, r.token, 0, 0, r.iteration + 1,
      pg_column_size(coalesce(r.input, e.input)), coalesce(e.priority, 0), r.is_keyed,
      coalesce(e.queue, 'default'), r.task, r.input, e.shard_key
    )::perdure.scheduled
  )
  into v_next
  from unnest(p_rows) with ordinality as r
  left join lateral (
    select x.* from perdure.execution as x where x.id = r.id limit 1
  ) as e on true;
  perform perdure._place(v_next, p_now);
end
$$;

comment on function perdure._repeat(perdure.running[], bigint[], timestamptz) is
'Schedules the next iteration of leased executions, each after its delay in milliseconds.';
