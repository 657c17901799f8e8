-- One piece of one kind of housekeeping, of such a size that it takes some ten milliseconds.
-- Locks: as the function that does it: SKIP LOCKED.

create or replace function perdure._sweep_part(
  p_part text, p_channels text[], p_max int, p_now timestamptz,
  out amount int, out tellings perdure._telling[], out is_full boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_max int := p_max;
  v_queue text;
  v_end timestamptz := clock_timestamp() + interval '20 milliseconds';
begin
  case p_part
    when 'leases' then
      v_max := least(p_max, 100);
      select r.amount, r.tellings into amount, tellings
      from perdure._expire_running(v_max, p_now) as r;
      is_full := amount >= v_max;
    when 'shards' then
      amount := perdure._assign_shards(null);
    when 'deadlines' then
      select d.amount, d.tellings into amount, tellings
      from perdure._expire_deadlines(least(p_max, 50), 200, p_now) as d;
      is_full := amount > 0 and exists (select from perdure.deadline as d where d.at <= p_now);
    when 'closing' then
      select c.amount, c.tellings into amount, tellings
      from perdure._close_batch(least(p_max, 50), 200, p_now) as c;
      is_full := amount > 0 and exists (select from perdure.closing as c where c.due_at <= p_now);
    when 'scheduled' then
      v_max := least(p_max, 500);
      amount := perdure._promote(p_now, v_max);
      is_full := amount >= v_max;
    when 'aside' then
      v_max := least(p_max, 50) * 10;
      amount := 0;
      for v_queue in select m.queue from perdure._misplaced(p_channels) as m (queue) loop
        amount := amount + perdure._set_aside(v_queue, v_max);
        is_full := amount >= v_max or clock_timestamp() >= v_end;
        exit when is_full;
      end loop;
    when 'keys' then
      v_max := least(p_max, 500);
      amount := perdure._lapse_keys(p_now, v_max);
      is_full := amount >= v_max;
    when 'retention' then
      select r.amount, r.is_full into amount, is_full
      from perdure._retain(least(p_max, 300), p_now) as r;
  end case;
  is_full := coalesce(is_full, false);
end
$$;

comment on function perdure._sweep_part(text, text[], int, timestamptz) is
'leases, shards, deadlines, closing, scheduled, aside, keys or retention. amount: how many, at most
p_max; is_full: there may be more; tellings: for _tell().';
