-- The only place that notifies: two channels for the whole install, a small payload. The server
-- keeps one of equal payloads of a transaction. It takes a lock of the whole database until the
-- commit is on disk: never in a hot transition.

create or replace function perdure._notify(p_event text, p_channel text default 'perdure')
returns void
language sql
volatile
as $$
  select pg_catalog.pg_notify(
    p_channel,
    case
      when pg_catalog.octet_length(p_event) < 8000 then p_event
      -- too many names for a payload: of any
      else pg_catalog.jsonb_build_object('event', p_event::jsonb -> 'event')::text
    end
  )
$$;

comment on function perdure._notify(text, text) is
'Tells the listeners of a channel: a JSON object {"event", …}; docs/reference/events.md has them
all.';
