-- Whose changes become executions. By name, not by oid: a table that is dropped and made again is
-- the same one, and gets its triggers back.

create table perdure.watch (
  id int generated always as identity primary key,
  changed_at timestamptz not null,
  schema_name text not null,
  table_name text not null,
  task text not null,
  queue text,
  columns text[],
  condition text,
  operations text[] not null,
  constraint watch_is_the_only_one_of_its_table_and_task unique (schema_name, table_name, task),
  constraint watch_task_is_a_name check (perdure._is_name(task)),
  constraint watch_queue_is_a_name check (perdure._is_name(queue)),
  constraint watch_has_known_operations
  check (cardinality(operations) > 0 and operations <@ array['insert', 'update', 'delete'])
);

comment on table perdure.watch is
'Watched tables: watch_table() writes it, the triggers perdure_watch_<id>_<operation> read it.';
comment on column perdure.watch.columns is
'An update counts where one of these differs; null: always.';
comment on column perdure.watch.condition is 'SQL over new and old; null: every change counts.';
