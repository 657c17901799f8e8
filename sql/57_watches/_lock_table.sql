-- Never in line: a waiting lock would hold up every writer that comes after it. In a
-- subtransaction, since that is the only way to be told that it cannot be had.

create or replace function perdure._lock_table(p_relation oid, p_mode text) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  execute format('lock table only %s in %s mode nowait', p_relation::regclass, p_mode);
exception
  when lock_not_available then
    raise exception 'the table % is in use', p_relation::regclass
      using errcode = 'QD018', hint = 'Try again when no transaction that wrote to it is open.';
end
$$;

comment on function perdure._lock_table(oid, text) is
'Locks a table without its children in this mode, or raises QD018 at once.';
