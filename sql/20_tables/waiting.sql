-- Room: parked. A parent waits for its children, for the step of its sequence or for its finalize;
-- a sleeper waits for wake(). Counters only: what is large stands in parked and step, since this
-- row is updated at every child's end.

create table perdure.waiting (
  id bigint primary key,
  since timestamptz not null,
  started_at timestamptz,
  deadline_at timestamptz,
  parent_id bigint,
  parent_generation int,
  generation int not null,
  active int not null,
  step int,
  worker_id int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  is_keyed boolean not null,
  is_fail_fast boolean not null default false,
  has_failed boolean not null default false,
  phase text not null,
  task text not null,
  constraint phase_is_known check (phase in ('sleep', 'children', 'steps', 'finalize')),
  constraint active_is_not_negative check (active >= 0),
  constraint sleeper_has_no_children check (phase <> 'sleep' or (active = 0 and generation = 0)),
  constraint parent_has_a_generation check (phase = 'sleep' or generation > 0),
  constraint steps_and_finalize_go_one_at_a_time
  check (phase not in ('steps', 'finalize') or active <= 1),
  constraint step_is_known_iff_in_steps check ((step is not null) = (phase = 'steps'))
) with (
  fillfactor = 50, vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_cost_delay = 0
);

comment on table perdure.waiting is
'Room of parked executions: status sleeping, waiting_for_children or waiting_for_finalize.';
comment on column perdure.waiting.generation is
'Which parking of this execution it is; only children of the same generation count.';
comment on column perdure.waiting.active is
'Children (or step, or finalize) that have not told yet.';
comment on column perdure.waiting.step is 'Position of the step that runs.';
comment on column perdure.waiting.has_failed is 'A child ended otherwise than completed.';
