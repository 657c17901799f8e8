-- From 0.1.0 to 0.2.0. In the order in which live workers take their locks: an exchange begins with
-- worker, an enqueue with config and execution.

-- These have another signature or result, or are gone.
drop function if exists perdure.enqueue(
  text, jsonb, text, int, interval, timestamptz, int, interval, timestamptz, text, text, text,
  boolean, interval, double precision, interval, double precision, text, int, jsonb, text[]
);
drop function if exists perdure.enqueue_many(jsonb);
drop function if exists perdure.exchange(
  uuid, jsonb, int, text[], text[], bigint[], bigint, jsonb
);
drop function if exists perdure.register_worker(text, text[], text[], jsonb);
drop function if exists perdure.sweep(text, int);
drop function if exists perdure._accept_children(jsonb, jsonb, boolean, timestamptz);
drop function if exists perdure._checked_options(perdure._item, jsonb, timestamptz);
drop function if exists perdure._claim(perdure.worker, text[], text[], int, jsonb);
drop function if exists perdure._close_batch(int, timestamptz);
drop function if exists perdure._expire_deadlines(int, timestamptz);
drop function if exists perdure._extra(
  bigint, text, bigint, bigint, int, boolean, int, int, text, timestamptz, jsonb, text[], jsonb
);
drop function if exists perdure._forget(bigint[], bigint[], timestamptz);
drop function if exists perdure._has_due(text[]);
drop function if exists perdure._keyed(perdure._item, perdure._item[], timestamptz);
drop function if exists perdure._notify(text);
drop function if exists perdure._notify_ready(text[]);
drop function if exists perdure._record(perdure.worker, jsonb);
drop function if exists perdure._record_rest(perdure.running[], jsonb, timestamptz, int);
drop function if exists perdure._tell(perdure._telling[], boolean);
drop function if exists perdure._time_out(bigint, timestamptz, int);

-- Workers: their session's lock goes on to show that they live.
alter table perdure.worker
add column machine_id int,
add column weight smallint not null default 1,
add column is_healthy boolean not null default true,
add column mode text not null default 'session',
add column ttl interval not null default '10 seconds',
add constraint worker_mode_is_known check (mode in ('session', 'lease')),
add constraint machine_ids_begin_at_1 check (machine_id > 0),
add constraint worker_has_a_weight check (weight > 0),
add constraint ttl_is_1_s_to_1_day check (ttl between '1 second' and '1 day');

update perdure.worker as w
set machine_id = n.machine_id
from (
  select
    o.id,
    row_number() over (order by o.id) as machine_id
  from perdure.worker as o
) as n
where w.id = n.id;

alter table perdure.worker
alter column machine_id set not null,
add unique (machine_id);

comment on column perdure.worker.lost_at is
'Since when it shows no sign of life; after config.worker_grace its work is recovered.';
comment on column perdure.worker.machine_id is
'The smallest number from 1 that no other worker has; free again when the worker is gone.';
comment on column perdure.worker.weight is 'Its share of shards, relative to the others''.';
comment on column perdure.worker.is_healthy is 'False: it gets no shards while others are healthy.';
comment on column perdure.worker.ttl is
'How long after its last sign of life it counts as dead: kept by the server for its session
(idle_session_timeout, set by the client), or by its lease.';

create table perdure.worker_lease (
  worker_id int primary key,
  expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.worker_lease is
'Until when a worker in lease mode lives; ping_worker() renews it. No row for session mode.';

-- Settings
alter table perdure.config
alter column worker_grace set default '0.5 seconds',
add column stale_fail_after interval,
add column retention interval,
add column repair_watches boolean not null default true,
add constraint stale_fail_after_is_positive check (stale_fail_after > '0'),
add constraint retention_is_not_negative check (retention >= '0');

update perdure.config
set worker_grace = '0.5 seconds'
where worker_grace = '1 second';  -- the default of 0.1.0

comment on column perdure.config.lock_namespace is
'First key of the advisory locks; the second is a worker''s id, or minus a leader''s lock_key.';
comment on column perdure.config.stale_fail_after is
'A dead worker''s attempt that began longer ago ends failed (type stale) and is not tried again;
null: none does.';
comment on column perdure.config.retention is
'How long ended trees are kept; null: for ever.';
comment on column perdure.config.repair_watches is
'Whether the sweepers see to the triggers of watched tables; repair_watches(''…'') does it anyway.';

-- Shard keys
alter table perdure.execution add column shard_key text;

comment on column perdure.execution.shard_key is
'Executions of a sharded queue with the same one run one at a time, by id.';

alter table perdure.scheduled add column shard_key text;

alter table perdure.ready
add column shard int,
add column shard_key text,
add column is_held boolean not null default false,
add constraint row_has_a_shard_iff_it_has_a_shard_key check ((shard is null) = (shard_key is null)),
add constraint only_rows_of_a_shard_are_held check (not is_held or shard is not null);

-- Without the id: by these no row is looked for that the primary key leads to
drop index perdure.scheduled_by_start;
create index scheduled_by_start on perdure.scheduled (start_at);
drop index perdure.deadline_by_time;
create index deadline_by_time on perdure.deadline (at);

drop index perdure.ready_in_order;

create index ready_in_order
on perdure.ready (queue, priority, start_at, id)
where not is_aside and shard is null;

create index ready_in_shard
on perdure.ready (queue, shard, id)
where shard is not null and not is_held and not is_aside;

create index ready_held
on perdure.ready (queue, shard_key, id)
where is_held;

comment on column perdure.ready.shard is 'Of its shard_key; null where it has none.';
comment on column perdure.ready.is_held is
'Another execution of its shard key goes before it; claims do not see the row.';

alter table perdure.closing
drop constraint closing_kind_is_known,
add constraint closing_kind_is_known check (kind in ('tell', 'end', 'recount', 'turn'));

comment on column perdure.closing.kind is
'tell: tell parent execution_id that `amount` children of `generation` ended. end: end execution_id,
if it lives, and then its descendants. recount: set its counter from its children. turn: give back
its turn, and let the next one of its shard key into the line.';

alter type perdure._item
alter attribute priority type int,
alter attribute max_attempts type int,
alter attribute max_crashes type int,
alter attribute retry_delay_ms type bigint,
alter attribute retry_max_delay_ms type bigint,
add attribute shard_key text,
add attribute delay_ms bigint;

create table perdure.shard_queue (
  queue text primary key,
  shards int not null,
  on_retry text not null,
  is_automatic boolean not null,
  assigned_for text,
  constraint sharded_queue_is_a_name check (perdure._is_name(queue)),
  constraint shards_are_1_to_4096 check (shards between 1 and 4096),
  constraint on_retry_is_known check (on_retry in ('hold', 'skip'))
);

comment on table perdure.shard_queue is
'Sharded queues. All executions of one shard_key run at one worker, one at a time, by id.';
comment on column perdure.shard_queue.shards is
'How many; a key''s shard is a hash of it, modulo this number.';
comment on column perdure.shard_queue.on_retry is
'hold: an execution keeps its key''s turn until it has ended; skip: it lets the next one pass
whenever it does not run.';
comment on column perdure.shard_queue.is_automatic is
'Shards are given to workers by shard_assignment(); otherwise workers acquire and release them.';
comment on column perdure.shard_queue.assigned_for is
'A hash of the workers for whom the shards were last shared out; null: they have to be.';

create table perdure.shard (
  queue text,
  number int,
  worker_id int,
  epoch bigint not null default 0,
  acquired_at timestamptz,
  primary key (queue, number),
  constraint shard_has_one_owner_per_epoch unique (queue, number, epoch),
  constraint shard_has_an_owner_iff_it_was_acquired
  check ((worker_id is null) = (acquired_at is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

create index shard_by_worker
on perdure.shard (worker_id, queue, number)
where worker_id is not null;

comment on table perdure.shard is
'Shards of sharded queues, from 0. An owner is as alive as its worker: there is no lock for each.';
comment on column perdure.shard.epoch is 'Rises with every change of owner, never falls.';

create table perdure.turn (
  queue text,
  shard_key text,
  id bigint not null unique,
  primary key (queue, shard_key)
) with (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.turn is
'Shard keys in use, each with the execution whose turn it is. No row where none has begun.';

-- Leaders
create table perdure.leader (
  purpose text,
  channel text,
  lock_key int generated always as identity unique,
  backend int,
  epoch bigint not null default 0,
  acquired_at timestamptz,
  expires_at timestamptz,
  holder uuid,
  mode text,
  name text,
  is_unwanted boolean not null default false,
  primary key (purpose, channel),
  -- makes a higher epoch an update of a key, which waits for those that hold FOR KEY SHARE; a
  -- renewed lease is none and does not
  constraint leader_has_one_holder_per_epoch unique (purpose, channel, epoch),
  constraint leader_purpose_is_known check (purpose in ('sweep', 'lock')),
  constraint leader_channel_is_a_name check (perdure._is_name(channel)),
  constraint leader_mode_is_known check (mode in ('session', 'lease', 'oneshot')),
  constraint leader_has_a_mode_iff_a_holder check ((holder is null) = (mode is null)),
  constraint lease_has_an_end_and_nothing_else
  check ((expires_at is not null) = (mode is not distinct from 'lease'))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.leader is
'Channels that were ever led: sweep (who sweeps a queue) and lock (anything of the users'').';
comment on column perdure.leader.lock_key is
'Second key of its advisory lock, negated; the first one is config.lock_namespace.';
comment on column perdure.leader.epoch is
'Rises with every change of hands, never falls: with the holder it proves leadership.';
comment on column perdure.leader.mode is
'session: held as long as the advisory lock; lease: until expires_at; oneshot: for one transaction,
which is over; null: resigned.';
comment on column perdure.leader.is_unwanted is
'Whether a holder that hears no notifications was asked to resign: it learns so when it renews.';
comment on column perdure.leader.backend is 'Process of the server at which it was elected.';

-- Retention
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

-- Watched tables
create table perdure.watch (
  id int generated always as identity primary key,
  changed_at timestamptz not null,
  schema_name text not null,
  table_name text not null,
  task text not null,
  queue text,
  columns text[],
  condition text,
  operations text[] not null,
  constraint watch_is_the_only_one_of_its_table_and_task unique (schema_name, table_name, task),
  constraint watch_task_is_a_name check (perdure._is_name(task)),
  constraint watch_queue_is_a_name check (perdure._is_name(queue)),
  constraint watch_has_known_operations
  check (cardinality(operations) > 0 and operations <@ array['insert', 'update', 'delete'])
);

comment on table perdure.watch is
'Watched tables: watch_table() writes it, the triggers perdure_watch_<id>_<operation> read it.';
comment on column perdure.watch.columns is
'An update counts where one of these differs; null: always.';
comment on column perdure.watch.condition is 'SQL over new and old; null: every change counts.';
