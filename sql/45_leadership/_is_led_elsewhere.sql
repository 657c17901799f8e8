-- The quick refusal: whoever stands for a channel that another session leads is told so without a
-- look at pg_locks, which stops the whole server's lock table for a moment. Most elections end
-- here, a few in a second for each worker.
-- Locks: the channel's advisory lock, for a moment, where it is free.

create or replace function perdure._is_led_elsewhere(p_purpose text, p_channel text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_namespace int := (select c.lock_namespace from perdure.config as c);
  v_key int;
begin
  select -l.lock_key into v_key
  from perdure.leader as l
  where l.purpose = p_purpose and l.channel = p_channel
    and l.mode = 'session' and l.backend <> pg_backend_pid();
  if v_key is null then
    return false;
  elsif not pg_try_advisory_lock(v_namespace, v_key) then
    return true;  -- by nobody here: a session's own lock does not refuse it
  end if;
  perform pg_advisory_unlock(v_namespace, v_key);
  return false;
end
$$;

comment on function perdure._is_led_elsewhere(text, text) is
'True when another session holds the lock of a channel. False says nothing: _elect() finds out.';
