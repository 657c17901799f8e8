-- sweep_for: passes of sweep(), each committed, until nothing is due or the time is up
-- What commits between its statements can neither run with the rights of its owner nor have
-- settings of its own: so this is a procedure with its caller's, and names everything in full.
-- Locks: as sweep(), given back after each pass. Real time, not the engine's clock: it is about how
-- long the caller is to be kept.

create or replace procedure perdure.sweep_for(
  channel text default null, for_time interval default '50 seconds', every interval default null
)
language plpgsql
as $$
declare
  v_end timestamptz := pg_catalog.clock_timestamp() + for_time;
  v_has_more boolean;
begin
  if (for_time >= '0' and (every is null or every > '0')) is not true then
    raise exception 'for_time is a duration, and so is every, got % and %', for_time, every
      using errcode = 'QD023';
  end if;
  loop
    select s.more into v_has_more from perdure.sweep(channel) as s;
    commit;
    exit when pg_catalog.clock_timestamp() >= v_end or every is null and not v_has_more;
    continue when v_has_more;
    perform pg_catalog.pg_sleep_for(least(every, v_end - pg_catalog.clock_timestamp()));
  end loop;
end
$$;

comment on procedure perdure.sweep_for is
'Calls sweep() until nothing is due, at most for `for_time`; each pass is committed. With `every` it
goes on until the time is up, and pauses that long when nothing is due: for schedulers that know
minutes only. It cannot be called inside a transaction. Raises what sweep() raises, and QD023.';
