-- An execution ended (or gives up its place): its keys lapse as they were told to, the next one of
-- its shard key is let into the line, and nothing is left to time out. A row of deadline that is
-- locked is being worked off by expire_deadlines, which deletes it itself: waiting for it here
-- could go round in a circle.

create or replace function perdure._forget(p_keyed bigint[], p_timed bigint[], p_now timestamptz)
returns bigint[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_next bigint[];
begin
  if p_keyed is not null then
    delete from perdure.key as k where k.id = any(p_keyed) and k.keep_ms = 0;
    update perdure.key as k
    set until = p_now + k.keep_ms * interval '1 millisecond'
    where k.id = any(p_keyed) and k.keep_ms > 0;
    v_next := perdure._give_back(p_keyed, p_now);
  end if;
  if p_timed is not null then
    delete from perdure.deadline as d
    where d.id = any(array(
      select x.id from perdure.deadline as x where x.id = any(p_timed) for update skip locked
    ));
  end if;
  return v_next;
end
$$;

comment on function perdure._forget(bigint[], bigint[], timestamptz) is
'Releases the keys, turns and deadlines of ended executions; null for none. Returns
who came into the line in their place, behind the same shard key.';
