-- Something may be claimed now that could not before.

create or replace function perdure._notify_ready(p_queues text[] default null) returns void
language sql
volatile
as $$ select perdure._notify(jsonb_build_object('event', 'ready', 'queues', p_queues)) $$;

comment on function perdure._notify_ready(text[]) is
'Wakes the workers of these queues (null: all).';
