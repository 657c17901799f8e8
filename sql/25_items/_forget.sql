-- An execution ended (or gives up its place): its keys lapse as they were told to, and nothing is
-- left to time out. A row of deadline that is locked is being worked off by expire_deadlines, which
-- deletes it itself: waiting for it here could go round in a circle.

create or replace function perdure._forget(p_keyed bigint[], p_timed bigint[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  if p_keyed is not null then
    delete from perdure.key as k where k.id = any(p_keyed) and k.keep_ms = 0;
    update perdure.key as k
    set until = p_now + k.keep_ms * interval '1 millisecond'
    where k.id = any(p_keyed) and k.keep_ms > 0;
  end if;
  if p_timed is not null then
    delete from perdure.deadline as d
    where d.id = any(array(
      select x.id from perdure.deadline as x where x.id = any(p_timed) for update skip locked
    ));
  end if;
end
$$;

comment on function perdure._forget(bigint[], bigint[], timestamptz) is
'Releases the keys and deadlines of ended executions; null for none.';
