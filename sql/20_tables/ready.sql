-- Room: due now. Only what may start at once stands here; future work stands in scheduled, so a
-- claim never reads past rows that it must not take. Rows of a task that no live worker of the
-- queue knows are set aside (is_aside), out of the claim's index, until such a worker registers.
-- Rows of a shard key have a line for each shard, which only its owner claims from; those behind
-- another one of their key are held (is_held), out of that line, until its turn has ended.

create table perdure.ready (
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
  is_aside boolean not null default false,
  queue text not null,
  task text not null,
  input jsonb,
  shard int,
  shard_key text,
  is_held boolean not null default false,
  constraint ready_counters_are_not_negative check (token >= 0 and attempts >= 0 and crashes >= 0),
  constraint row_has_a_shard_iff_it_has_a_shard_key check ((shard is null) = (shard_key is null)),
  constraint only_rows_of_a_shard_are_held check (not is_held or shard is not null)
) with (
  fillfactor = 90, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

create index ready_in_order
on perdure.ready (queue, priority, start_at, id)
where not is_aside and shard is null;

create index ready_aside
on perdure.ready (queue, task, id)
where is_aside;

create index ready_in_shard
on perdure.ready (queue, shard, id)
where shard is not null and not is_held and not is_aside;

create index ready_held
on perdure.ready (queue, shard_key, id)
where is_held;

comment on table perdure.ready is
'Room of executions that are due: status ready. Claimed by queue, then priority, start_at, id.';
comment on column perdure.ready.token is
'Number of claims and revocations so far; the next lease gets a higher one, so no report repeats.';
comment on column perdure.ready.attempts is 'Attempts used up.';
comment on column perdure.ready.crashes is
'Crashes: attempts whose worker died; a budget of its own.';
comment on column perdure.ready.iteration is 'How often `again` was reported.';
comment on column perdure.ready.bytes is 'Size of the input, for the byte budget of a claim.';
comment on column perdure.ready.input is 'Input given by `again`; it goes before the original one.';
comment on column perdure.ready.is_aside is
'No live worker of this queue knows the task; claims do not see the row.';
comment on column perdure.ready.shard is 'Of its shard_key; null where it has none.';
comment on column perdure.ready.is_held is
'Another execution of its shard key goes before it; claims do not see the row.';
