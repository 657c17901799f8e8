-- resign: give channels back; whoever waits for one is told in the same commit
-- Locks: the rows of leader, in order of the channels. The session locks are given back before the
-- commit: who is elected meanwhile finds the row locked, and asks again in 20 ms.

create or replace function perdure.resign(
  channels text[], holder uuid, epochs bigint[], purpose text default 'lock'
) returns table (channel text, is_resigned boolean)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_given record;
  v_key int;
  v_released text[] := '{}';
begin
  perform perdure._require_read_committed();
  perform perdure._require_channels(channels, resign.purpose);
  for v_given in
    select p.channel, p.epoch from unnest(channels, epochs) as p (channel, epoch) order by 1, 2
  loop
    update perdure.leader as l
    set holder = null, mode = null, backend = null, name = null, expires_at = null
    where l.purpose = resign.purpose and l.channel = v_given.channel
      and l.holder = resign.holder and l.epoch = v_given.epoch
    returning -l.lock_key into v_key;
    channel := v_given.channel;
    is_resigned := found;
    if found then
      perform perdure._unlock(v_key);
      v_released := v_released || v_given.channel;
    end if;
    return next;
  end loop;
  if cardinality(v_released) > 0 then
    perform perdure._tell_channels('released', resign.purpose, v_released);
  end if;
end
$$;

comment on function perdure.resign(text[], uuid, bigint[], text) is
'Gives up leadership under these epochs (parallel to channels) and notifies those who wait; false
where another leads, or the epoch is over: nothing is changed then. In session mode it has to be the
session that was elected. Raises QD010, QD020, QD026.';
