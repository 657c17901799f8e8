-- Never in line: a waiting lock would hold up every writer that comes after it. In a
-- subtransaction, since that is the only way to be told that it cannot be had.

create or replace function perdure._lock_table(p_relation oid, p_is_alone boolean) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  execute format(
    case
      when p_is_alone then 'lock table only %s in access exclusive mode nowait'
      else 'lock table only %s in share row exclusive mode nowait'
    end,
    p_relation::regclass
  );
exception
  when lock_not_available then
    raise exception 'the table % is in use', p_relation::regclass
      using errcode = 'QD018', hint = 'Try again when no transaction that wrote to it is open.';
end
$$;

comment on function perdure._lock_table(oid, boolean) is
'Keeps writers from a table (not from its children), or everybody; raises QD018 at once where that
cannot be.';
