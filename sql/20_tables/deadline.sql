-- When an execution has to be over, wherever it stands: deadlines, and the time-out of sleepers.

create table perdure.deadline (
  id bigint primary key,
  at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02);

create index deadline_by_time on perdure.deadline (at);  -- without the id, as in scheduled

comment on table perdure.deadline is
'The moment at which a live execution is ended as timed_out. No row where there is none.';
