-- Test installs only: the engine's clock stands where a test puts it. Null: the real time.

create table perdure.test_clock (
  is_only boolean primary key default true check (is_only),
  at timestamptz
);

insert into perdure.test_clock default values;

create or replace function perdure._clock() returns timestamptz
language sql
volatile
as $$ select coalesce((select at from perdure.test_clock), clock_timestamp()) $$;
