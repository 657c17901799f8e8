-- sweep: one bounded pass over all that time alone causes, by whoever asks for it
-- Locks: with a channel, as _elect_once; then as _sweep. It waits for nobody.

create or replace function perdure.sweep(
  channel text default null, max int default 1000,
  out promoted int, out recovered int, out timed_out int, out closed int, out moved int,
  out forgotten int, out more boolean, out deleted int, out skipped text
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_channels text[];
  v_max int := coalesce(sweep.max, 1000);
  v_reason text;
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  if sweep.channel is not null then
    v_channels := array[sweep.channel];
    perform perdure._require_channels(v_channels, 'sweep');
    v_reason := perdure._elect_once(sweep.channel);
    if v_reason <> 'elected' then
      v_max := 0;
      skipped := nullif(v_reason, 'nothing due');
    end if;
  end if;
  select s.promoted, s.recovered, s.timed_out, s.closed, s.moved, s.forgotten, s.more, s.deleted
  into promoted, recovered, timed_out, closed, moved, forgotten, more, deleted
  from perdure._sweep(v_channels, v_max) as s;
end
$$;

comment on function perdure.sweep(text, int) is
'One bounded pass of housekeeping (about a tenth of a second, at most `max` of each kind): moves due
executions to ready, recovers lost leases, ends what is past its deadline, tells parents and cancels
descendants, sets aside what no worker knows, drops lapsed keys, deletes what retention no longer
keeps. Safe to call from anywhere, at any time, by any number of callers. With a channel (a queue)
the call stands for leadership of it, for itself alone: skipped says why it did nothing (resident
leader: a live worker sweeps; busy: another call is at it). Without one it sweeps whoever leads.
more: call again at once. Raises QD010, QD016, QD020.';
