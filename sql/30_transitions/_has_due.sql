-- The cheapest question there is, so that an idle worker writes nothing.

create or replace function perdure._has_due(p_queues text[]) returns boolean
language sql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
  select exists (
    -- asked in a sub-select, the clock is read once and can bound an index
    select from perdure.scheduled as s where s.start_at <= (select perdure._clock())
  ) or exists (
    select
    from unnest(p_queues) as q (name)
    cross join lateral (
      select from perdure.ready as r where r.queue = q.name and not r.is_aside limit 1
    ) as r
  )
$$;

comment on function perdure._has_due(text[]) is
'True when something may be claimed from these queues, or moved into them.';
