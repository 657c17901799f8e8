-- One character of stored jsonb prints as six at most (\u0001), and every other value prints
-- shorter than it is stored: so small values are passed without being printed. Stable, for only
-- then can it be inlined.

create or replace function perdure._exceeds(p_value jsonb, p_limit int) returns boolean
language sql
stable
as $$
  select case
    when pg_catalog.pg_column_size(p_value) < p_limit / 6 then false
    else pg_catalog.octet_length(p_value::text) > p_limit
  end
$$;

comment on function perdure._exceeds(jsonb, int) is
'True when the value, printed as JSON text, has more than p_limit bytes; null for null.';
