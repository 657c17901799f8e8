-- An execution has left `running` and goes on later: where its queue says so (on_retry skip), the
-- next one of its shard key may pass.
-- Locks: as _give_back.

create or replace function perdure._let_pass(p_ids bigint[], p_now timestamptz) returns void
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
  v_ids bigint[] := array(
    select t.id
    from perdure.turn as t
    where t.id = any(p_ids)
      and exists (
        select from perdure.shard_queue as q where q.queue = t.queue and q.on_retry = 'skip'
      )
  );
begin
  if cardinality(v_ids) > 0 then
    perform perdure._give_back(v_ids, p_now);
  end if;
end
$$;

comment on function perdure._let_pass(bigint[], timestamptz) is
'Gives back the turns of those of the executions whose queue does not hold them.';
