-- Room: due later (delay, run_at, retry back-off, again). Claims and sweeps move due rows to ready.

create table perdure.scheduled (
  id bigint primary key,
  start_at timestamptz not null,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  bytes int not null,
  priority smallint not null,
  is_keyed boolean not null,
  queue text not null,
  task text not null,
  input jsonb,
  shard_key text,
  constraint scheduled_counters_are_not_negative
  check (token >= 0 and attempts >= 0 and crashes >= 0)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

-- Without the id, or to find a row by that could look as good as by the primary key.
create index scheduled_by_start on perdure.scheduled (start_at);

comment on table perdure.scheduled is
'Room of executions that are due later: status ready with a start_at in the future.';
comment on column perdure.scheduled.input is
'Input given by `again`; it goes before the original one.';
