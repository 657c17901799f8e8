-- sweep: every transition that time alone causes, one bounded pass
-- Locks: as its parts; last, once for all, the parents' waiting rows: each SKIP LOCKED, so that a
-- sweep waits for nobody and any number of them may run at once.

create or replace function perdure.sweep(
  channel text default null, max int default 1000,
  out promoted int, out recovered int, out timed_out int, out closed int, out moved int,
  out forgotten int, out more boolean
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_queue text;
  v_timed record;
  v_lost record;
  v_owed record;
begin
  perform perdure._require_read_committed();
  promoted := perdure._promote(v_now, sweep.max);
  moved := 0;
  for v_queue in
    select distinct q.name
    from perdure.worker as w, unnest(w.queues) as q (name)
    where w.lost_at is null and (sweep.channel is null or q.name = sweep.channel)
  loop
    moved := moved + perdure._set_aside(v_queue, sweep.max * 10);
  end loop;
  forgotten := perdure._lapse_keys(v_now, sweep.max);
  select d.* into v_timed from perdure._expire_deadlines(least(sweep.max, 100), v_now) as d;
  select r.* into v_lost from perdure._expire_running(sweep.max, v_now) as r;
  perform perdure._assign_shards(null);
  select c.* into v_owed from perdure._close_batch(sweep.max, v_now) as c;
  timed_out := v_timed.amount;
  recovered := v_lost.amount;
  closed := v_owed.amount;
  perform perdure._tell(v_timed.tellings || v_lost.tellings || v_owed.tellings, false);
  more := promoted = sweep.max or moved >= sweep.max * 10 or forgotten = sweep.max
    or exists (select from perdure.deadline as d where d.at <= v_now) or recovered >= sweep.max
    or exists (select from perdure.closing as c where c.due_at <= v_now);
end
$$;

comment on function perdure.sweep(text, int) is
'One bounded pass of housekeeping: moves due executions to ready, recovers lost leases, ends what is
past its deadline, tells parents and cancels descendants, sets aside what no worker knows, drops
lapsed keys. Safe to call from anywhere, at any time, by any number of callers. `channel`: a queue
to which setting aside is limited. more: call again at once. Raises QD010.';
