-- _end: any -> finished
-- Any live status to cancelled or timed_out, with the whole live subtree.
-- Locks: the execution's room row, for which it may wait, since nothing is held yet; then room rows
-- of descendants, SKIP LOCKED. An execution that moves is followed from room to room, a fresh
-- snapshot at each look; if it cannot be caught, the request stays in closing.

create or replace function perdure._end(
  p_id bigint, p_status text, p_error jsonb, p_now timestamptz,
  out result text, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_ended record;
  v_below record;
begin
  for v_try in 1 .. 20 loop
    -- wait for whoever moves it
    perform from perdure.ready as r where r.id = p_id for update;
    perform from perdure.scheduled as s where s.id = p_id for update;
    perform from perdure.running as r where r.id = p_id for update;
    perform from perdure.waiting as w where w.id = p_id for update;
    select l.* into v_ended from perdure._end_live(array[p_id], p_status, p_error, p_now) as l;
    if v_ended.ended is not null then
      result := p_status;
      tellings := v_ended.tellings;
      if v_ended.parents is not null then
        select d.* into v_below
        from perdure._end_descendants(
          v_ended.parents, null, null,
          jsonb_build_object(
            'type', 'cancelled', 'retryable', false, 'message',
            format('execution %s ended %s: %s', p_id, p_status, p_error ->> 'message')
          ),
          (select c.cancel_limit from perdure.config as c), p_now
        ) as d;
        tellings := tellings || v_below.tellings;
      end if;
      return;
    elsif exists (select from perdure.finished as f where f.id = p_id) then
      result := 'finished';
      return;
    end if;
  end loop;
  insert into perdure.closing (kind, execution_id, status, error, due_at)
  values ('end', p_id, p_status, p_error, p_now);
  result := 'pending';
end
$$;

comment on function perdure._end(bigint, text, jsonb, timestamptz) is
'Ends one execution from outside. result: the status given, finished (it had ended) or pending (left
to closing); tellings: for decrement_parents().';
