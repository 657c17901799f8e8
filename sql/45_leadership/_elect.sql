-- One channel's election. The one place where leadership begins.
-- Locks: the channel's advisory lock (for the session in session mode, else for the transaction),
-- never waited for; then its row of leader, FOR UPDATE SKIP LOCKED. Whoever loses gives the session
-- lock back. Who fails or is cut off here may have the lock without knowing: it has to hang up.

create or replace function perdure._elect(
  p_purpose text, p_channel text, p_holder uuid, p_mode text, p_ttl interval, p_name text,
  p_locked int[], out epoch bigint, out wait_ms int, out reason text
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_now timestamptz := perdure._clock();
  v_namespace int := (select c.lock_namespace from perdure.config as c);
  v_leader perdure.leader;
  v_key int;
begin
  for v_try in 1 .. 2 loop
    select l.* into v_leader
    from perdure.leader as l
    where l.purpose = p_purpose and l.channel = p_channel;
    exit when found;
    insert into perdure.leader (purpose, channel) values (p_purpose, p_channel)
    on conflict do nothing;
  end loop;
  v_key := -v_leader.lock_key;
  if v_leader.holder = p_holder and v_leader.mode = p_mode
    and (
      p_mode = 'session' and v_key = any(p_locked)
      or p_mode = 'lease' and v_leader.expires_at > v_now
    )
  then
    if p_mode = 'lease' then
      update perdure.leader as l
      set expires_at = v_now + p_ttl
      where l.purpose = p_purpose and l.channel = p_channel and l.epoch = v_leader.epoch;
    end if;
    if found then  -- else it ran out, and another was elected while this waited for the row
      epoch := v_leader.epoch;
      reason := case when v_leader.is_unwanted then 'unwanted' else 'leader' end;
      return;
    end if;
  end if;

  reason := 'held';
  if p_mode <> 'session' then
    -- this very session may lead, and would not be refused by its own lock
    if v_key = any(p_locked) or not pg_try_advisory_xact_lock(v_namespace, v_key) then
      return;
    end if;
  elsif v_key <> all(p_locked) and not pg_try_advisory_lock(v_namespace, v_key) then
    return;
  end if;
  select l.* into v_leader
  from perdure.leader as l
  where l.purpose = p_purpose and l.channel = p_channel
  for update skip locked;
  if not found then
    wait_ms := 20;
    reason := 'busy';
  elsif v_leader.expires_at > v_now and v_leader.holder <> p_holder then
    wait_ms := ceil(extract(epoch from v_leader.expires_at - v_now) * 1000);
  else
    update perdure.leader as l
    set epoch = l.epoch + 1, holder = p_holder, mode = p_mode, backend = pg_backend_pid(),
      name = p_name, acquired_at = v_now, is_unwanted = false,
      expires_at = case when p_mode = 'lease' then v_now + p_ttl end
    where l.purpose = p_purpose and l.channel = p_channel
    returning l.epoch into v_leader.epoch;
    epoch := v_leader.epoch;
    reason := 'elected';
    return;
  end if;
  if p_mode = 'session' then
    perform perdure._unlock(v_key);
  end if;
end
$$;

comment on function perdure._elect(text, text, uuid, text, interval, text, int[]) is
'epoch: of the leadership that p_holder has from now on (elected), or had already (leader; unwanted:
it is asked to resign); null: it has none, because another is alive (held) or is just being elected
(busy). wait_ms: when to ask again, where known.
p_locked: keys of the session locks that this backend holds.';
