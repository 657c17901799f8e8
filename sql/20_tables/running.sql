-- Room: leased to a worker. The lease is (id, worker, token); whoever reports has to name it.
-- Nothing here is updated: there is no heartbeat on work rows, a worker's session shows its life.

create table perdure.running (
  id bigint primary key,
  started_at timestamptz not null,
  expires_at timestamptz not null,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  worker_id int not null,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  is_keyed boolean not null,
  task text not null,
  input jsonb,
  constraint lease_ends_after_it_began check (expires_at > started_at),
  constraint lease_has_a_token check (token > 0)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

create index running_by_worker on perdure.running (worker_id, expires_at);

comment on table perdure.running is
'Room of leased executions: status running. At most the total concurrency of all workers.';
comment on column perdure.running.expires_at is
'started_at + timeout: past it the attempt counts as timed out, whatever its worker does.';
comment on column perdure.running.attempts is
'Attempts used up before this one; this one has number attempts + 1.';
