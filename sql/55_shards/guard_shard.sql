-- guard_shard: only the owner of a shard goes on
-- Locks: the shard, FOR KEY SHARE, until the transaction ends: until then nobody else can own it.
-- Waits for an assignment that is about to commit.

create or replace function perdure.guard_shard(
  worker uuid, queue text, number int, epoch bigint
) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
begin
  perform perdure._require_read_committed();
  perform
  from perdure.shard as s
  where s.queue = guard_shard.queue
    and s.number = guard_shard.number
    and s.epoch = guard_shard.epoch
    and s.worker_id = (
      select w.id from perdure.worker as w where w.incarnation = guard_shard.worker
    )
  for key share of s;
  if not found then
    raise exception 'shard % of queue % is not owned by this worker in epoch %',
      guard_shard.number, guard_shard.queue, guard_shard.epoch
      using errcode = 'QD014', hint = 'Stop what only its owner may do; ask refresh_shards().';
  end if;
end
$$;

comment on function perdure.guard_shard(uuid, text, int, bigint) is
'Raises QD014 unless this worker owns the shard in this epoch, and keeps it so until the transaction
ends. For what a body writes on its own, to be called first. Raises QD010, QD014.';
