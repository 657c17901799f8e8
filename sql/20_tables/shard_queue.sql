-- Queues whose keyed executions are shared out among workers by shards.

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
