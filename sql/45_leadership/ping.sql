-- ping: does the holder still lead? Reads only; the statement itself keeps idle_session_timeout
-- away

create or replace function perdure.ping(
  channels text[], holder uuid, epochs bigint[], purpose text default 'lock'
) returns table (channel text, is_leader boolean)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_locked int[] := case
    when cardinality(channels) > 0 then perdure._locked_keys(pg_backend_pid())
  end;
begin
  perform perdure._require_read_committed();
  perform perdure._require_channels(channels, ping.purpose);
  return query
  select p.channel, coalesce(
    case l.mode
      when 'session' then -l.lock_key = any(v_locked)
      when 'lease' then l.expires_at > perdure._clock()
    end,
    false
  )
  from unnest(channels, epochs) with ordinality as p (channel, epoch, n)
  left join perdure.leader as l
    on l.purpose = ping.purpose and l.channel = p.channel and l.epoch = p.epoch
    and l.holder = ping.holder
  order by p.n;
end
$$;

comment on function perdure.ping(text[], uuid, bigint[], text) is
'Whether holder, under these epochs (parallel to channels), leads: in session mode, whether this
session has the lock. Call it from the session that was elected, three times in its ttl. Raises
QD010, QD020, QD026.';
