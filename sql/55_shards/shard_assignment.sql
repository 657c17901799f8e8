-- To whom each shard belongs by what is registered now, and who has it. The assignment takes what
-- it gives from here, so whoever asks sees what it will do.

create or replace function perdure.shard_assignment(
  inout queue text default null, out shard int, out worker_id int, out machine_id int,
  out name text, out owner_id int, out epoch bigint
) returns setof record
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
  with live as materialized (
    select w.id, w.machine_id, w.name, w.weight, w.is_healthy, w.queues
    from perdure.worker as w
    where w.id = any((select perdure._live_workers())::int[])
  )
  select s.queue, s.number, b.id, b.machine_id, b.name, s.worker_id, s.epoch
  from perdure.shard as s
  left join lateral (
    select l.id, l.machine_id, l.name
    from live as l
    where s.queue = any(l.queues)
    order by
      l.is_healthy desc,
      perdure._shard_score(s.queue, s.number, l.machine_id, l.weight) desc,
      l.machine_id
    limit 1
  ) as b on true
  where shard_assignment.queue is null or s.queue = shard_assignment.queue
  order by s.queue, s.number
$$;

comment on function perdure.shard_assignment(text) is
'For each shard of a queue (null: of all), from 0: the worker it belongs to (worker_id, machine_id,
name; null where none lives), and the one that owns it now (owner_id) in this epoch. It belongs to
the live and healthy worker of the queue (where none is healthy, to a live one) with the highest
-weight / ln(u), u from 0 to 1 being a hash of shard, machine id and queue.';
