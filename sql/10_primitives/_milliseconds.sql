-- Durations in JSON: a number is seconds, a string an interval.

create or replace function perdure._milliseconds(p_duration jsonb) returns bigint
language sql
stable
as $$
  select case pg_catalog.jsonb_typeof(p_duration)
    when 'number' then pg_catalog.round((p_duration #>> '{}')::numeric * 1000)::bigint
    -- by way of a double: an infinite interval is then out of range (class 22) on every version
    else pg_catalog.round(
      extract(epoch from (p_duration #>> '{}')::interval)::double precision * 1000
    )::bigint
  end
$$;

comment on function perdure._milliseconds(jsonb) is
'Whole milliseconds of a duration given as seconds (number) or interval (string).';
