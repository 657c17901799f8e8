-- One row for each registered process. It proves itself by its incarnation, a secret that no view
-- shows, and lives as long as its session holds the advisory lock (config.lock_namespace, id).

create table perdure.worker (
  id int generated always as identity primary key,
  incarnation uuid not null unique default gen_random_uuid(),
  registered_at timestamptz not null,
  lost_at timestamptz,
  least_call bigint not null default 0,
  name text not null,
  queues text[] not null,
  tasks text[],
  info jsonb,
  constraint worker_has_a_name check (perdure._is_name(name)),
  constraint worker_serves_a_queue check (cardinality(queues) > 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.worker is 'Registered workers. An incarnation is never used again.';
comment on column perdure.worker.lost_at is
'Since when a sweep finds its session lock free; after config.worker_grace its work is recovered.';
comment on column perdure.worker.least_call is
'Exchanges with a lower call number are refused: they were sent before the last resume.';
comment on column perdure.worker.tasks is 'Task names that it runs; null for all.';
