-- Leadership of a channel's housekeeping for this transaction: whoever sweeps without being the
-- resident leader. The higher epoch fences a leader that was paused and wakes up later.
-- Locks: the channel's advisory lock, for the transaction; its row of leader, FOR UPDATE SKIP
-- LOCKED. Neither is waited for. Where nothing is due, nothing is written, and no row is locked.

create or replace function perdure._elect_once(p_channel text) returns text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz := perdure._clock();
  v_namespace int := (select c.lock_namespace from perdure.config as c);
  v_leader perdure.leader;
  v_is_due boolean := perdure._is_due(array[p_channel], v_now);
begin
  for v_try in 1 .. 2 loop
    select l.* into v_leader
    from perdure.leader as l
    where l.purpose = 'sweep' and l.channel = p_channel;
    exit when found or not v_is_due;
    if not pg_try_advisory_xact_lock(v_namespace, 0) then  -- nobody's key
      return 'busy';  -- another one adds a row, for which the insert might wait
    end if;
    insert into perdure.leader (purpose, channel) values ('sweep', p_channel)
    on conflict do nothing;
  end loop;
  if v_leader.lock_key is null then
    return 'nothing due';
  elsif (
    -- this very session may lead, and would not be refused by its own lock
    v_leader.mode = 'session' and v_leader.backend = pg_backend_pid()
    and -v_leader.lock_key = any(perdure._locked_keys(pg_backend_pid()))
  ) or not pg_try_advisory_xact_lock(v_namespace, -v_leader.lock_key)
    or v_leader.expires_at > v_now
  then
    return 'resident leader';
  elsif not v_is_due then
    return 'nothing due';
  end if;
  select l.* into v_leader
  from perdure.leader as l
  where l.purpose = 'sweep' and l.channel = p_channel
  for update skip locked;
  if not found then
    return 'busy';
  elsif v_leader.expires_at > v_now then
    return 'resident leader';
  end if;
  update perdure.leader as l
  set epoch = l.epoch + 1, holder = gen_random_uuid(), mode = 'oneshot',
    backend = pg_backend_pid(), name = null, acquired_at = v_now, expires_at = null
  where l.purpose = 'sweep' and l.channel = p_channel;
  return 'elected';
end
$$;

comment on function perdure._elect_once(text) is
'elected: this transaction leads the housekeeping of the channel, under an epoch of its own;
resident leader, busy (another transaction is just at it) or nothing due: it does not.';
