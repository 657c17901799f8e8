-- What is missing or wrong with the triggers of one table is made anew, whole: also one that is
-- only disabled, so that being allowed to make triggers is enough. Nothing is dropped.
-- Locks: the table's advisory lock, then the table in SHARE ROW EXCLUSIVE mode (which readers and
-- pg_dump do not mind), both without waiting, and only where something is to be done.

create or replace function perdure._mend_table(p_table text) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_relation oid := (
    select perdure._table_oid(t.schema_name, t.table_name) from perdure._table_named(p_table) as t
  );
  v_found record;
begin
  if not exists (
    select from perdure.check_watches(p_table) as h where perdure._is_mendable(h.problem)
  ) then
    return;
  end if;
  perform perdure._reserve_table(v_relation);
  perform perdure._lock_table(v_relation, false);
  for v_found in
    select h.watch, h.operation
    from perdure.check_watches(p_table) as h
    where perdure._is_mendable(h.problem)
  loop
    execute format(
      'create or replace trigger %I after %s on %s referencing %s'
      ' for each statement execute function perdure._watched(%L)',
      format('perdure_watch_%s_%s', v_found.watch, v_found.operation),
      case v_found.operation
        when 'insert' then 'insert' when 'delete' then 'delete' else 'update'
      end,
      v_relation::regclass,
      case v_found.operation
        when 'insert' then 'new table as perdure_new'
        when 'delete' then 'old table as perdure_old'
        else 'new table as perdure_new old table as perdure_old'
      end,
      v_found.watch
    );
  end loop;
end
$$;

comment on function perdure._mend_table(text) is
'Makes the triggers of a table''s watches as they have to be; takes no lock where they are. Raises
QD018 where the table is in use.';
