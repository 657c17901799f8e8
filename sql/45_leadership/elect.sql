-- elect: stand for channels, one call for all of them; whoever leads already is confirmed
-- Locks: as _elect, channel by channel in order of their names: the first two that ever stand for
-- the same channels wait for one another's new rows, everybody else for nothing.

create or replace function perdure.elect(
  channels text[], holder uuid, mode text default 'session', ttl interval default '1 second',
  purpose text default 'lock', name text default null
) returns table (channel text, is_leader boolean, epoch bigint, wait_ms int, reason text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_channels text[] := array(select distinct c.name from unnest(channels) as c (name) order by 1);
  v_held text[] := '{}';
  v_locked int[];
  v_channel text;
  v_result record;
  v_elected text[] := '{}';
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  perform perdure._require_channels(channels, elect.purpose);
  if holder is null or (elect.mode in ('session', 'lease')) is not true
    or (ttl between '100 milliseconds' and '1 day') is not true
    or perdure._is_name(elect.name) is false
  then
    raise exception 'an election needs a holder, a mode (session, lease), a ttl of 100 ms to 1 day'
      using errcode = 'QD026';
  end if;
  foreach v_channel in array v_channels loop
    if perdure._is_led_elsewhere(elect.purpose, v_channel) then
      v_held := v_held || v_channel;
    end if;
  end loop;
  if cardinality(v_held) < cardinality(v_channels) then
    v_locked := perdure._locked_keys(pg_backend_pid());
  end if;
  foreach v_channel in array v_channels loop
    channel := v_channel;
    if v_channel = any(v_held) then
      select
        null::bigint as epoch,
        perdure._pause_ms(elect.purpose, v_channel) as wait_ms,
        'held' as reason
      into v_result;
    else
      select e.* into v_result
      from perdure._elect(
        elect.purpose, v_channel, holder, elect.mode, ttl, elect.name, v_locked
      ) as e;
    end if;
    is_leader := v_result.epoch is not null;
    epoch := v_result.epoch;
    wait_ms := v_result.wait_ms;
    reason := v_result.reason;
    if reason = 'elected' then
      v_elected := v_elected || v_channel;
    end if;
    return next;
  end loop;
  if cardinality(v_elected) > 0 then
    if current_setting('synchronous_commit') = 'off' then
      perform set_config('synchronous_commit', 'on', true);  -- no epoch is given twice
    end if;
    perform perdure._tell_channels('elected', elect.purpose, v_elected);
  elsif elect.mode = 'lease' then
    perform set_config('synchronous_commit', 'off', true);  -- a lost renewal is renewed
  end if;
end
$$;

comment on function perdure.elect(text[], uuid, text, interval, text, text) is
'Stands for leadership of channels (any name up to 255 characters). One row for each: is_leader, the
epoch that fences the holder, else why not (held, busy) and after how many milliseconds to ask
again, where known; unwanted: it leads, and is asked to resign. holder: a fresh uuid for each
process. mode session: held as long as this session, which has to be a direct connection; lease: for
`ttl`, renewed by calling again, also through a pooler. Calling again as the holder changes nothing.
purpose: lock, or sweep for the housekeeping of a queue. Raises QD010, QD016 (a hot standby), QD020,
QD026.';
