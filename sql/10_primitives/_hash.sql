-- A number for a text, the same on every server and for ever: PostgreSQL's own hash functions may
-- change with a major version, and md5 is refused where FIPS mode is on.

create or replace function perdure._hash(p_text text) returns bigint
language sql
stable
parallel safe
as $$
  select ('x' || pg_catalog.substr(
    pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(p_text, 'UTF8')), 'hex'), 1, 8
  ))::bit(32)::bigint
$$;

comment on function perdure._hash(text) is 'A number from 0 to 2^32 - 1, evenly spread.';
