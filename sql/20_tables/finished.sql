-- Room: the outcome. Insert only; a redrive moves the row to attempt.
-- No constraint but the id stands on it: it can be partitioned by ranges of id.

create table perdure.finished (
  id bigint primary key,
  started_at timestamptz,
  finished_at timestamptz not null,
  worker_id int,
  token int not null,
  attempts int not null,
  crashes int not null,
  iteration int not null,
  status text not null,
  output jsonb,
  error jsonb,
  constraint end_status_is_known
  check (status in ('completed', 'failed', 'timed_out', 'finalize_failed', 'cancelled')),
  constraint error_iff_not_completed check ((error is null) = (status = 'completed')),
  constraint output_only_when_completed check (output is null or status = 'completed')
);

comment on table perdure.finished is
'Room of ended executions: status completed, failed, timed_out, finalize_failed or cancelled.';
comment on column perdure.finished.token is
'Token of the lease that reported the outcome; higher than any lease where none did.';
comment on column perdure.finished.error is
'{type, message, retryable, …}; see docs/reference/errors.md.';
