-- The engine's only clock. Tests replace this function by one that reads a row; production has
-- no such row, so nobody can move the time.

create or replace function perdure._clock() returns timestamptz
language sql
volatile
as $$ select pg_catalog.clock_timestamp() $$;

comment on function perdure._clock() is
'The database''s wall clock at the moment of the call; the engine trusts no other.';
