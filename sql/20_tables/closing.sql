-- What an ended execution still owes to its tree, where one transaction could not do it all.

create table perdure.closing (
  id bigint generated always as identity primary key,
  execution_id bigint not null,
  generation int,
  amount int,
  failures int,
  position int,
  kind text not null,
  status text,
  error jsonb,
  due_at timestamptz not null,
  constraint closing_kind_is_known check (kind in ('tell', 'end', 'recount', 'turn')),
  constraint tell_has_amounts check (
    kind <> 'tell' or (generation is not null and amount is not null and failures is not null)
  ),
  constraint end_has_status_and_error check (
    kind <> 'end' or (status is not null and error is not null)
  )
) with (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02);

create index closing_by_execution on perdure.closing (execution_id);

comment on table perdure.closing is
'Debts of ended executions to their trees, paid by close_batch(). Usually empty.';
comment on column perdure.closing.kind is
'tell: tell parent execution_id that `amount` children of `generation` ended. end: end execution_id,
if it lives, and then its descendants. recount: set its counter from its children. turn: give back
its turn, and let the next one of its shard key into the line.';
comment on column perdure.closing.due_at is
'Not worked off before; later than now where another transaction had the rows locked.';
comment on column perdure.closing.position is
'end: children up to this position are done (of `generation`).';
