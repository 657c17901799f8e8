-- Gives each shard of automatic queues to the worker that shard_assignment() names. What is begun
-- there goes on: its turn keeps the others of its key back, whoever owns the shard.
-- Locks: rows of shard_queue, then of shard, SKIP LOCKED all: a shard from which a claim is under
-- way, or which is guarded, is left to the next sweep. Writes nothing where nothing has changed. A
-- shard whose owner is lost but not given up, and which nobody else can have, is left to it.

create or replace function perdure._assign_shards(p_queues text[]) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_live int[];
  v_queue record;
  v_numbers int[];
  v_workers int[];
  v_free int[];
  v_count int := 0;
begin
  if not exists (
    select from perdure.shard_queue as q
    where q.is_automatic and (p_queues is null or q.queue = any(p_queues))
  ) or (p_queues is null and clock_timestamp() < pg_postmaster_start_time() + (
    select c.restart_grace from perdure.config as c
  )) then
    return 0;  -- after a restart: let the workers come back first
  end if;
  v_live := perdure._live_workers();
  for v_queue in
    select q.queue, perdure._assigned_for(q.queue, v_live) as assigned_for
    from perdure.shard_queue as q
    where q.is_automatic
      and (p_queues is null or q.queue = any(p_queues))
      and q.assigned_for is distinct from perdure._assigned_for(q.queue, v_live)
    order by q.queue
    for no key update skip locked
  loop
    select coalesce(array_agg(a.shard), '{}'), array_agg(a.worker_id)
    into v_numbers, v_workers
    from perdure.shard_assignment(v_queue.queue) as a
    where a.worker_id is distinct from a.owner_id
      and (
        a.worker_id is not null
        or not exists (select from perdure.worker as w where w.id = a.owner_id)
      );
    v_free := array(
      select s.number
      from perdure.shard as s
      where s.queue = v_queue.queue and s.number = any(v_numbers)
      for update skip locked
    );
    update perdure.shard as s
    set worker_id = v_workers[array_position(v_numbers, s.number)],
      epoch = s.epoch + 1,
      acquired_at = case
        when v_workers[array_position(v_numbers, s.number)] is not null then v_now
      end
    where s.queue = v_queue.queue and s.number = any(v_free);
    v_count := v_count + cardinality(v_free);
    if cardinality(v_free) = cardinality(v_numbers) then
      update perdure.shard_queue as q
      set assigned_for = v_queue.assigned_for
      where q.queue = v_queue.queue;
    end if;
  end loop;
  if v_count > 0 then
    perform perdure._notify('{"event": "shards"}');
  end if;
  return v_count;
end
$$;

comment on function perdure._assign_shards(text[]) is
'Shares the shards of these automatic queues (null: of all) out among their workers; returns how
many changed hands.';
