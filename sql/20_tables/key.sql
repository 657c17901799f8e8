-- Idempotency and wake keys. The primary key makes a second caller wait for the first one's commit.

create table perdure.key (
  scope text,
  key text,
  id bigint not null,
  keep_ms bigint,
  until timestamptz,
  primary key (scope, key)
) with (autovacuum_vacuum_scale_factor = 0.02);

create index key_by_id on perdure.key (id);
create index key_by_until on perdure.key (until) where until is not null;

comment on table perdure.key is
'Keys in force: scope (the task, unless another was given) and key lead to one execution.';
comment on column perdure.key.keep_ms is
'Milliseconds that the key outlives its execution; 0: it goes with it; null: for ever.';
comment on column perdure.key.until is
'When it lapses; null while the execution lives or for ever.';
