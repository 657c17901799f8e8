-- _hand_back: running -> ready
-- Unharmed: no attempt used, at its old place in the line.
-- Locks: none but the new rows. p_revoked is 1 where the worker did not ask for it.

create or replace function perdure._hand_back(
  p_rows perdure.running[], p_revoked int, p_now timestamptz
) returns int
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
  v_back perdure.scheduled[];
begin
  select array_agg(
    row(
      r.id, least(e.start_at, p_now), r.deadline_at, r.parent_id, r.parent_generation,
      r.token + p_revoked, r.attempts, r.crashes, r.iteration,
      pg_column_size(coalesce(r.input, e.input)), coalesce(e.priority, 0), r.is_keyed,
      coalesce(e.queue, 'default'), r.task, r.input, e.shard_key
    )::perdure.scheduled
  )
  into v_back
  from unnest(p_rows) as r
  left join lateral (
    select x.* from perdure.execution as x where x.id = r.id limit 1
  ) as e on true;
  perform perdure._place(v_back, p_now);
  return coalesce(cardinality(v_back), 0);
end
$$;

comment on function perdure._hand_back(perdure.running[], int, timestamptz) is
'Puts leased executions back into ready as if they had not been claimed; returns how many.';
