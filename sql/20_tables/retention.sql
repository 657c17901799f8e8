-- How far sweeps have got with deleting what config.retention no longer keeps: one row, locked by
-- whoever goes on, so one at a time.

create table perdure.retention (
  is_only boolean primary key default true,
  cursor bigint not null default 0,
  node bigint,
  is_doomed boolean not null default false,
  next_at timestamptz not null default 'epoch',
  constraint retention_has_one_row check (is_only),
  constraint only_a_tree_is_doomed check (node is not null or not is_doomed)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

insert into perdure.retention default values;

comment on table perdure.retention is
'Where retention stands in its walk over all executions, by id; exactly one row.';
comment on column perdure.retention.cursor is
'Executions up to this id are judged; the root of the tree that `node` is in.';
comment on column perdure.retention.node is
'Where it stands in a tree of more than one execution; null: in none.';
comment on column perdure.retention.is_doomed is
'False: the tree is being judged; true: all of it may go, and goes, leaves first.';
comment on column perdure.retention.next_at is 'When the next walk begins.';
