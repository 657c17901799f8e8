-- watch_table: from its commit on, changed rows of the table become executions of the task.
-- Asked again for what is there it writes nothing and takes no lock. Locks, none of them waited
-- for: the table's advisory lock; where triggers have to be made, the table.

create or replace function perdure.watch_table(
  relation text,
  task text,
  columns text[] default null,
  condition text default null,
  operations text[] default '{insert,update,delete}',
  queue text default null
) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_given perdure.watch;
  v_found perdure.watch;
begin
  perform perdure._require_read_committed();
  v_given.task := watch_table.task;
  v_given.queue := watch_table.queue;
  v_given.columns := watch_table.columns;
  v_given.condition := watch_table.condition;
  v_given.operations := watch_table.operations;
  v_given := perdure._checked_watch(watch_table.relation, v_given);
  for v_try in 1 .. 2 loop  -- the second time under the lock: another session may have been quicker
    select w.* into v_found
    from perdure.watch as w
    where w.schema_name = v_given.schema_name and w.table_name = v_given.table_name
      and w.task = v_given.task;
    v_given.id := v_found.id;
    v_given.changed_at := v_found.changed_at;
    exit when v_try = 2 or v_found = v_given;
    perform perdure._reserve_table(perdure._table_oid(v_given.schema_name, v_given.table_name));
  end loop;
  if v_found.id is null then
    insert into perdure.watch (
      changed_at, schema_name, table_name, task, queue, columns, condition, operations
    )
    values (
      perdure._clock(), v_given.schema_name, v_given.table_name, v_given.task, v_given.queue,
      v_given.columns, v_given.condition, v_given.operations
    )
    returning * into v_found;
  elsif v_found is distinct from v_given then
    update perdure.watch as w
    set changed_at = perdure._clock(), queue = v_given.queue, columns = v_given.columns,
      condition = v_given.condition, operations = v_given.operations
    where w.id = v_found.id;
  end if;
  perform perdure._mend_table(format('%I.%I', v_given.schema_name, v_given.table_name));
  return v_found.id;
end
$$;

comment on function perdure.watch_table(text, text, text[], text, text[], text) is
'Has every changed row of a table enqueue one execution of a task, with input {"table", "op", "new",
"old"}, in the writer''s transaction; returns the watch''s id. columns: an update counts only where
one of them differs. condition: SQL over new and old, run with the rights of the engine''s owner.
Asked for again with other arguments it takes these. Raises QD010, QD017, QD018 (the table is being
written to), QD020, QD026.';
