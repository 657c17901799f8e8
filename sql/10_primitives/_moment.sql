-- Moments in JSON: a number is seconds from now, a string a timestamp.

create or replace function perdure._moment(p_moment jsonb, p_now timestamptz) returns timestamptz
language sql
stable
as $$
  select case pg_catalog.jsonb_typeof(p_moment)
    when 'number' then p_now + (p_moment #>> '{}')::double precision * interval '1 second'
    else (p_moment #>> '{}')::timestamptz
  end
$$;

comment on function perdure._moment(jsonb, timestamptz) is
'The moment given as a timestamp (string) or as seconds from p_now (number).';
