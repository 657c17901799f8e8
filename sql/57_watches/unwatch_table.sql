-- unwatch_table: the end of a watch, with its triggers, also on a table that was renamed.
-- Locks, none of them waited for: the table's advisory lock, then the table in ACCESS EXCLUSIVE
-- mode, as dropping a trigger needs.

create or replace function perdure.unwatch_table(relation text, task text) returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_id int;
  v_trigger record;
begin
  perform perdure._require_read_committed();
  select w.id into v_id
  from perdure.watch as w
  join perdure._table_named(unwatch_table.relation) as t
    on t.schema_name = w.schema_name and t.table_name = w.table_name
  where w.task = unwatch_table.task;
  for v_trigger in
    select t.tgname as name, t.tgrelid as relation
    from pg_trigger as t
    where t.tgname ~ format('^perdure_watch_%s_(insert|update|delete)$', v_id)
      and not t.tgisinternal
    order by t.tgrelid, t.tgname
  loop
    perform perdure._reserve_table(v_trigger.relation);
    perform perdure._lock_table(v_trigger.relation, true);
    execute format('drop trigger if exists %I on %s', v_trigger.name, v_trigger.relation::regclass);
  end loop;
  delete from perdure.watch as w where w.id = v_id;
  return found;
end
$$;

comment on function perdure.unwatch_table(text, text) is
'Ends a watch; false where there was none. Raises QD010, QD018 (somebody uses the table), QD020.';
