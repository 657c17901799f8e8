-- Locks: the shards, SKIP LOCKED: a transaction under guard_shard() may itself be waiting for the
-- row of shard_queue, which the caller has locked.

create or replace function perdure._remove_shards(p_queue text, p_from int) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_free int[];
begin
  -- all in one statement: whoever moves meanwhile is seen at one of the places
  if exists (select from perdure.turn as t where t.queue = p_queue)
    or exists (
      select from perdure.ready as r
      where r.queue = p_queue and r.shard is not null and not r.is_held and not r.is_aside
    )
    or exists (
      select from perdure.ready as r where r.queue = p_queue and r.is_aside and r.shard is not null
    )
    or exists (select from perdure.ready as r where r.queue = p_queue and r.is_held)
    or exists (
      select from perdure.scheduled as s where s.queue = p_queue and s.shard_key is not null
    )
  then
    raise exception 'queue % has live executions with a shard_key', p_queue
      using errcode = 'QD011',
        hint = 'Let them end or cancel them: their shards depend on the number.';
  end if;
  v_free := array(
    select s.number
    from perdure.shard as s
    where s.queue = p_queue and s.number >= p_from
    for update skip locked
  );
  if exists (
    select from perdure.shard as s
    where s.queue = p_queue and s.number >= p_from and s.number <> all(v_free)
  ) then
    raise exception 'a shard of queue % is in use', p_queue
      using errcode = 'QD011', hint = 'Try again when its transaction has ended.';
  end if;
  delete from perdure.shard as s where s.queue = p_queue and s.number = any(v_free);
end
$$;

comment on function perdure._remove_shards(text, int) is
'Drops the shards of a queue from a number on. Raises QD011 while it has live executions with a
shard key, or a shard is locked.';
