-- All that time alone causes, one bounded pass: the parts take turns, the most urgent first, each
-- doing a piece that takes some ten milliseconds. Every part has one turn, so that none can starve
-- another; those with more to do have more, until nothing is due, each has done p_max, or a
-- twentieth of a second is gone. Telling parents may take as long again.
-- Locks: as its parts; last, once for all, the parents' waiting rows: each SKIP LOCKED, so that a
-- sweep waits for nobody and any number of them may run at once. A pass with nothing to do writes
-- nothing.

create or replace function perdure._sweep(
  p_channels text[], p_max int,
  out promoted int, out recovered int, out timed_out int, out closed int, out moved int,
  out forgotten int, out more boolean, out deleted int
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_end timestamptz := clock_timestamp() + interval '50 milliseconds';
  v_now timestamptz := perdure._clock();
  v_parts text[] := array[
    'leases', 'shards', 'deadlines', 'closing', 'scheduled', 'aside', 'keys', 'retention'
  ];
  v_done jsonb := '{}';
  v_turns int := cardinality(v_parts);
  v_part text;
  v_step record;
  v_amount int;
  v_tellings perdure._telling[];
  v_is_capped boolean := false;
  v_has_moved boolean := false;
  v_begun int;
begin
  while cardinality(v_parts) > 0 and p_max > 0 loop  -- bounded by the time
    exit when v_turns <= 0 and (clock_timestamp() >= v_end or cardinality(v_tellings) > 50);
    v_turns := v_turns - 1;
    v_part := v_parts[1];
    v_parts := v_parts[2:];
    v_amount := coalesce((v_done ->> v_part)::int, 0);
    select s.* into v_step
    from perdure._sweep_part(v_part, p_channels, p_max - v_amount, v_now) as s;
    v_amount := v_amount + v_step.amount;
    v_done := v_done || jsonb_build_object(v_part, v_amount);
    v_tellings := v_tellings || v_step.tellings;
    -- a walk that goes on has moved, also where all that it saw is kept
    v_has_moved := v_has_moved or v_step.amount > 0 or v_part = 'retention' and v_step.is_full;
    if v_step.is_full and v_amount < p_max then
      v_parts := v_parts || v_part;
    else
      v_is_capped := v_is_capped or v_step.is_full;
    end if;
  end loop;
  recovered := coalesce((v_done ->> 'leases')::int, 0);
  timed_out := coalesce((v_done ->> 'deadlines')::int, 0);
  closed := coalesce((v_done ->> 'closing')::int, 0);
  promoted := coalesce((v_done ->> 'scheduled')::int, 0);
  moved := coalesce((v_done ->> 'aside')::int, 0);
  forgotten := coalesce((v_done ->> 'keys')::int, 0);
  deleted := coalesce((v_done ->> 'retention')::int, 0);
  v_begun := perdure._tell(
    v_tellings, false, greatest(v_end, clock_timestamp()) + interval '50 milliseconds'
  );
  if recovered + timed_out + closed > 0 then
    perform perdure._notify('{"event": "gone"}');
  elsif promoted + moved + v_begun > 0 then
    perform perdure._notify_ready();
  end if;
  more := (
    v_is_capped or cardinality(v_parts) > 0 or exists (
      select from perdure.closing as c where c.due_at <= perdure._clock()
    )
  ) and v_has_moved;  -- what is due and could not be done is locked: it can wait
end
$$;

comment on function perdure._sweep(text[], int) is
'One pass: at most p_max of each kind (of rows looked at for setting aside: ten times as many).
p_channels: queues to which setting aside is limited; null: all. Notifies workers when something can
be claimed, or leases were taken away. more: call again at once.';
