-- Who owns a shard. A claim holds FOR KEY SHARE on the shards it takes from. A higher epoch is an
-- update of a key (see the unique constraint), which such a lock excludes: a shard never changes
-- hands in the middle of a claim, nor of a transaction under guard_shard().

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
