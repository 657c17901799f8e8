-- What _notify_ready() says, of one queue: most enqueues do little else, so it is put together
-- without a JSON object.

create or replace function perdure._notify_queue(p_queue text) returns void
language sql
volatile
as $$
  select pg_catalog.pg_notify(
    'perdure', '{"event": "ready", "queues": [' || pg_catalog.to_json(p_queue) || ']}'
  )
$$;

comment on function perdure._notify_queue(text) is 'Wakes the workers of a queue.';
