-- One row of settings for the whole install.

create table perdure.config (
  is_only boolean primary key default true,
  payload_limit int not null default 1048576,
  claim_bytes int not null default 8388608,
  cancel_limit int not null default 10000,
  lock_namespace int not null default (random() * 2147483647)::int,
  worker_grace interval not null default '0.5 seconds',
  restart_grace interval not null default '5 seconds',
  stale_fail_after interval,
  retention interval,
  repair_watches boolean not null default true,
  constraint config_has_one_row check (is_only),
  constraint payload_limit_is_1_kib_to_64_mib check (payload_limit between 1024 and 67108864),
  constraint claim_bytes_is_positive check (claim_bytes > 0),
  constraint cancel_limit_is_positive check (cancel_limit > 0),
  constraint graces_are_not_negative check (worker_grace >= '0' and restart_grace >= '0'),
  constraint stale_fail_after_is_positive check (stale_fail_after > '0'),
  constraint retention_is_not_negative check (retention >= '0')
);

insert into perdure.config default values;

comment on table perdure.config is 'Settings of this install; exactly one row.';
comment on column perdure.config.payload_limit is
'Bytes of one input, output or error, printed as JSON text. Default 1 MiB.';
comment on column perdure.config.claim_bytes is
'Bytes of inputs at which one claim stops (it returns at least one execution). Default 8 MiB.';
comment on column perdure.config.cancel_limit is
'Executions that one transaction ends when a subtree is cancelled; the rest goes through closing.';
comment on column perdure.config.lock_namespace is
'First key of the advisory locks; the second is a worker''s id, or minus a leader''s lock_key.';
comment on column perdure.config.worker_grace is
'How long a worker without its lock is given to come back before its work is taken away.';
comment on column perdure.config.restart_grace is
'How long after a start of the server no worker is given up: all of them lost their lock with it.';
comment on column perdure.config.stale_fail_after is
'A dead worker''s attempt that began longer ago ends failed (type stale) and is not tried again;
null: none does.';
comment on column perdure.config.retention is
'How long ended trees are kept; null: for ever.';
comment on column perdure.config.repair_watches is
'Whether the sweepers see to the triggers of watched tables; repair_watches(''…'') does it anyway.';
