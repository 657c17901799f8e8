-- Attempts that were not the end, and outcomes that a redrive set aside. Insert only.

create table perdure.attempt (
  execution_id bigint,
  token int,
  attempt int not null,
  worker_id int,
  started_at timestamptz,
  ended_at timestamptz not null,
  status text not null,
  error jsonb,
  output jsonb,
  primary key (execution_id, token),
  constraint attempt_status_is_known check (
    status in ('failed', 'timed_out', 'crashed', 'completed', 'finalize_failed', 'cancelled')
  )
);

comment on table perdure.attempt is
'Attempts after which the execution went on: failed, timed out, crashed, or ended and redriven.
The last attempt of an ended execution stands in finished.';
comment on column perdure.attempt.token is
'Of the lease that reported it; where the lease was taken away, one more than that.';
