-- Durations in JSON: a number is seconds, a string an interval.

create or replace function perdure._milliseconds(p_duration jsonb) returns bigint
language sql
stable
as $$
  select case pg_catalog.jsonb_typeof(p_duration)
    when 'number' then pg_catalog.round((p_duration #>> '{}')::numeric * 1000)::bigint
    else perdure._interval_ms((p_duration #>> '{}')::interval)
  end
$$;

comment on function perdure._milliseconds(jsonb) is
'Whole milliseconds of a duration given as seconds (number) or interval (string).';
