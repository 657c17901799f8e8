-- New executions wake workers, once for a call: those of the queues that something stands in line
-- of, or, for what is due later, when it is the next of all: then the workers sleep too long. It
-- happens also where all of them seem busy, for one may fall idle before this transaction commits.

create or replace function perdure._announce(p_items perdure._item[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_queues text[];
begin
  v_queues := array(
    select distinct i.queue
    from unnest(p_items) as i
    where not i.is_sleeping
      and (i.start_at <= p_now or i.start_at = (
        select s.start_at from perdure.scheduled as s order by s.start_at limit 1
      ))
    order by 1
  );
  if cardinality(v_queues) > 0 then
    perform perdure._notify_ready(v_queues, cardinality(p_items));
  end if;
end
$$;

comment on function perdure._announce(perdure._item[], timestamptz) is
'Notifies the workers for whom these executions, just inserted, change something.';
