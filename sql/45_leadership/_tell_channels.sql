-- Candidates hear these on a channel of their own, so that what is enqueued wakes none of them.
-- Names are up to a kilobyte long and a payload has less than eight: it may take several.

create or replace function perdure._tell_channels(
  p_event text, p_purpose text, p_channels text[]
) returns void
language sql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
  select
    perdure._notify(told.event, 'perdure'),
    perdure._notify(told.event, 'perdure_leadership')
  from (
    select jsonb_build_object(
      'event', p_event, 'purpose', p_purpose, 'channels', array_agg(c.name order by c.n)
    )::text as event
    from unnest(p_channels) with ordinality as c (name, n)
    group by (c.n - 1) / 7
  ) as told
$$;

comment on function perdure._tell_channels(text, text, text[]) is
'Notifies of something that happened to all these channels.';
