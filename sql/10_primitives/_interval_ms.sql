-- By way of a double, and with bounds: an infinite interval is out of every range, on every
-- version.

create or replace function perdure._interval_ms(p_interval interval) returns bigint
language sql
stable
as $$
  select case when p_interval is not null then
    least(greatest(
      pg_catalog.round(extract(epoch from p_interval)::double precision * 1000), -9e18
    ), 9e18)::bigint
  end
$$;

comment on function perdure._interval_ms(interval) is
'Whole milliseconds of an interval; null for null.';
