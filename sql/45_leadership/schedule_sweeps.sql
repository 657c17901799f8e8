-- schedule_sweeps: has pg_cron sweep, so that the engine needs no resident worker for it
-- One job for a channel, known by its name: calling it again changes that job. pg_cron before 1.5
-- ticks by the minute: there each run goes on nearly until the next one begins. Its functions are
-- called by dynamic SQL, since they need not be there.

create or replace function perdure.schedule_sweeps(
  channel text default null, every interval default '1 second'
) returns table (job text, schedule text, command text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_version int[];
  v_seconds int := ceil(extract(epoch from every));
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  if channel is not null then
    perform perdure._require_channels(array[channel], 'sweep');
  end if;
  if v_seconds between 1 and 59 is not true then
    raise exception 'sweeps are scheduled every 1 to 59 seconds, got %', every
      using errcode = 'QD023';
  end if;
  v_version := perdure._cron_version();
  job := perdure._cron_job(channel);
  if v_version >= '{1,5}' then
    schedule := format('%s seconds', v_seconds);
    command := format('call perdure.sweep_for(%L, %L)', channel, v_seconds || ' s');
  else
    schedule := '* * * * *';
    command := format(
      'call perdure.sweep_for(%L, %L, every => %L)', channel, '58 s', v_seconds || ' s'
    );
  end if;
  execute format('select %I.schedule($1, $2, $3)', 'cron') using job, schedule, command;
  return next;
end
$$;

comment on function perdure.schedule_sweeps(text, interval) is
'Has pg_cron sweep this channel (null: everything) every 1 to 59 seconds, until unschedule_sweeps().
Returns the job as it was scheduled. Raises QD010, QD015 (no pg_cron in this database), QD016,
QD020, QD023.';
