-- Signs of life of workers behind a pooler: apart from worker, whose row an exchange may hold for
-- long, and narrow, since it is written a few times in each ttl.

create table perdure.worker_lease (
  worker_id int primary key,
  expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.worker_lease is
'Until when a worker in lease mode lives; ping_worker() renews it. No row for session mode.';
