-- Something may be claimed now that could not before. Put together as text, since most enqueues do
-- little else.

create or replace function perdure._notify_ready(
  p_queues text[] default null, p_items int default null
) returns void
language sql
volatile
as $$
  select perdure._notify(
    '{"event": "ready", "queues": ' || coalesce(pg_catalog.to_json(p_queues)::text, 'null')
    || coalesce(', "items": ' || p_items::text, '') || '}'
  )
$$;

comment on function perdure._notify_ready(text[], int) is
'Wakes the workers of these queues (null: all): as many of them as so many items need, soon also the
others; null: all at once.';
