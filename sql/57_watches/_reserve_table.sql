-- Who changes the triggers of a table. Another one is never waited for: it does the same work, and
-- whoever queues for a table holds up all that come to it later.
-- Its key is the table's oid below the install's namespace, in the space of single keys, apart from
-- those of workers and leaders.

create or replace function perdure._reserve_table(p_relation oid) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock((
    select c.lock_namespace::bigint << 32 | p_relation::bigint from perdure.config as c
  )) then
    raise exception 'another session is changing the watches of %', p_relation::regclass
      using errcode = 'QD018', hint = 'Try again.';
  end if;
end
$$;

comment on function perdure._reserve_table(oid) is
'Takes the advisory lock under which a table''s triggers are changed, until the transaction ends.
Raises QD018 where another session has it.';
