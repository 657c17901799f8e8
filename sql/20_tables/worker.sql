-- One row for each registered process. It proves itself by its incarnation, a secret that no view
-- shows. In session mode it lives as long as a session of its holds the advisory lock
-- (config.lock_namespace, id); behind a pooler, in lease mode, until worker_lease.expires_at.

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
  machine_id int not null unique,
  weight smallint not null default 1,
  is_healthy boolean not null default true,
  mode text not null default 'session',
  ttl interval not null default '10 seconds',
  constraint worker_has_a_name check (perdure._is_name(name)),
  constraint worker_serves_a_queue check (cardinality(queues) > 0),
  constraint worker_mode_is_known check (mode in ('session', 'lease')),
  constraint machine_ids_begin_at_1 check (machine_id > 0),
  constraint worker_has_a_weight check (weight > 0),
  constraint ttl_is_1_s_to_1_day check (ttl between '1 second' and '1 day')
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.worker is 'Registered workers. An incarnation is never used again.';
comment on column perdure.worker.lost_at is
'Since when it shows no sign of life; after config.worker_grace its work is recovered.';
comment on column perdure.worker.least_call is
'Exchanges with a lower call number are refused: they were sent before the last resume.';
comment on column perdure.worker.tasks is 'Task names that it runs; null for all.';
comment on column perdure.worker.machine_id is
'The smallest number from 1 that no other worker has; free again when the worker is gone.';
comment on column perdure.worker.weight is 'Its share of shards, relative to the others''.';
comment on column perdure.worker.is_healthy is 'False: it gets no shards while others are healthy.';
comment on column perdure.worker.ttl is
'How long after its last sign of life it counts as dead: kept by the server for its session
(idle_session_timeout, set by the client), or by its lease.';
