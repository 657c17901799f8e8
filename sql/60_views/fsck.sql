-- Every invariant of the engine as one query: one statement, one snapshot, so it is true at any
-- moment, under any load. It reads everything: meant for tests and for a DBA's doubt, not for a
-- loop.

create or replace function perdure.fsck() returns table (invariant text, id bigint, detail text)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
  with room as (
    select r.id, 'ready' as room, r.task, r.token, r.parent_id, r.parent_generation, r.is_keyed,
      r.deadline_at
    from perdure.ready as r
    union all
    select s.id, 'scheduled', s.task, s.token, s.parent_id, s.parent_generation, s.is_keyed,
      s.deadline_at
    from perdure.scheduled as s
    union all
    select r.id, 'running', r.task, r.token, r.parent_id, r.parent_generation, r.is_keyed,
      r.deadline_at
    from perdure.running as r
    union all
    select w.id, 'waiting', w.task, w.token, w.parent_id, w.parent_generation, w.is_keyed,
      w.deadline_at
    from perdure.waiting as w
  ), stand as (
    select l.id, l.room from room as l
    union all
    select f.id, 'finished' from perdure.finished as f
  ), owing as (
    select c.execution_id as id from perdure.closing as c where c.kind = 'end'
  ), counted as (
    select l.parent_id, l.parent_generation, count(*) as live
    from room as l
    where l.parent_id is not null
    group by l.parent_id, l.parent_generation
  ), untold as (
    select c.execution_id, c.generation, sum(c.amount) as amount
    from perdure.closing as c
    where c.kind = 'tell'
    group by c.execution_id, c.generation
  )
  select 'an execution stands in one room', s.id, string_agg(s.room, ', ' order by s.room)
  from stand as s
  group by s.id
  having count(*) > 1
  union all
  select 'an execution stands in a room', e.id, 'none'
  from perdure.execution as e
  where not exists (select from stand as s where s.id = e.id)
  union all
  select 'a room row has its facts', s.id, s.room
  from stand as s
  where not exists (select from perdure.execution as e where e.id = s.id)
    -- a claim that found none ended the execution with this error
    and not exists (
      select from perdure.finished as f where f.id = s.id and f.error ->> 'type' = 'no_facts'
    )
  union all
  select 'a room row repeats its facts', l.id, l.room
  from room as l
  join perdure.execution as e on e.id = l.id
  where l.task <> e.task
    or l.parent_id <> e.parent_id
    or l.parent_generation <> e.parent_generation
    or l.is_keyed <> (e.key is not null or e.shard_key is not null)
    or l.deadline_at <> e.deadline_at
  union all
  select 'ready and scheduled rows stand in their queue', e.id, e.queue
  from perdure.execution as e
  join (
    select r.id, r.queue, r.priority from perdure.ready as r
    union all
    select s.id, s.queue, s.priority from perdure.scheduled as s
  ) as r on r.id = e.id
  where (r.queue, r.priority) <> (e.queue, e.priority)
  union all
  select 'a sleeper sleeps and nothing else does', e.id, l.room
  from room as l
  join perdure.execution as e on e.id = l.id
  left join perdure.waiting as w on w.id = l.id
  where e.is_sleeping <> (w.phase is not distinct from 'sleep')
  union all
  select 'the counter equals the live children', w.id,
    format('counter %s, live %s, untold %s', w.active, coalesce(c.live, 0), coalesce(u.amount, 0))
  from perdure.waiting as w
  left join counted as c on c.parent_id = w.id and c.parent_generation = w.generation
  left join untold as u on u.execution_id = w.id and u.generation = w.generation
  where w.phase <> 'sleep' and w.active <> coalesce(c.live, 0) + coalesce(u.amount, 0)
  union all
  select 'a parent waits for somebody', w.id, w.phase
  from perdure.waiting as w
  where w.phase <> 'sleep' and w.active = 0
  union all
  select 'a live child has a waiting parent of its generation', l.id,
    format('parent %s', l.parent_id)
  from room as l
  where l.parent_id is not null
    and not exists (
      select from perdure.waiting as w
      where w.id = l.parent_id and w.generation = l.parent_generation
    )
    and not exists (
      with recursive ancestor as (
        select l.id as id
        union all
        select e.parent_id
        from ancestor as a
        join perdure.execution as e on e.id = a.id
        where e.parent_id is not null
      )
      select from ancestor as a join owing as o on o.id = a.id
    )
  union all
  select 'children have different places', min(e.id), format('parent %s', e.parent_id)
  from perdure.execution as e
  where e.parent_id is not null
  group by e.parent_id, e.parent_generation, e.position
  having count(*) > 1
  union all
  select 'a root is a root of itself', e.id, format('root %s', e.root_id)
  from perdure.execution as e
  where (e.parent_id is null) <> (e.root_id = e.id)
  union all
  select 'a child has its parent''s root', e.id, format('root %s', e.root_id)
  from perdure.execution as e
  join perdure.execution as p on p.id = e.parent_id
  where e.root_id <> p.root_id
  union all
  select 'a lease has a worker', r.id, format('worker %s', r.worker_id)
  from perdure.running as r
  where not exists (select from perdure.worker as w where w.id = r.worker_id)
  union all
  select 'a token is above all recorded before', l.id, format('token %s', l.token)
  from room as l
  where exists (
    select from perdure.attempt as a where a.execution_id = l.id and a.token > l.token
  )
  union all
  select 'a key leads to its execution', k.id, format('%s of %s', k.key, k.scope)
  from perdure.key as k
  where not exists (
    select from perdure.execution as e where e.id = k.id and (e.key_scope, e.key) = (k.scope, k.key)
  )
  union all
  select 'a live keyed execution holds its key', l.id, e.key
  from room as l
  join perdure.execution as e on e.id = l.id
  where e.key is not null
    and not exists (
      select from perdure.key as k
      where (k.scope, k.key) = (e.key_scope, e.key) and k.id = e.id and k.until is null
    )
  union all
  select 'a key of an ended execution lapses', k.id, k.key
  from perdure.key as k
  join perdure.finished as f on f.id = k.id
  where k.until is null and k.keep_ms is not null
  union all
  select 'a live execution with a deadline will meet it', l.id, l.deadline_at::text
  from room as l
  where l.deadline_at is not null
    and not exists (select from perdure.deadline as d where d.id = l.id and d.at <= l.deadline_at)
    and not exists (select from owing as o where o.id = l.id)
  union all
  select 'a deadline belongs to a live execution', d.id, d.at::text
  from perdure.deadline as d
  where not exists (select from room as l where l.id = d.id)
  union all
  select 'what is parked belongs to a waiting parent', p.id, 'parked'
  from perdure.parked as p
  where not exists (select from perdure.waiting as w where w.id = p.id and w.phase <> 'sleep')
  union all
  select 'a step to come belongs to a sequence', s.parent_id, format('step %s', s.position)
  from perdure.step as s
  where not exists (
    select from perdure.waiting as w
    where w.id = s.parent_id and w.phase = 'steps' and w.step < s.position
  )
  union all
  select 'attempts stay within the policy', f.id, format('%s of %s', f.attempts, e.max_attempts)
  from perdure.finished as f
  join perdure.execution as e on e.id = f.id
  where f.attempts > e.max_attempts or f.crashes > e.max_crashes + 1
  union all
  select 'a row of a shard key stands in its shard', e.id, e.shard_key
  from perdure.execution as e
  join (
    select
      r.id, r.shard_key,
      r.shard is not distinct from
      case when r.shard_key is not null then perdure._shard_of(r.queue, r.shard_key) end as is_there
    from perdure.ready as r
    union all
    select s.id, s.shard_key, true from perdure.scheduled as s
  ) as r on r.id = e.id
  where not r.is_there or r.shard_key is distinct from e.shard_key
  union all
  select 'a turn belongs to a live execution of its shard key', t.id, t.shard_key
  from perdure.turn as t
  where not exists (
    select from room as l
    join perdure.execution as e on e.id = l.id
    where l.id = t.id and (e.queue, e.shard_key) = (t.queue, t.shard_key)
  )
    and not exists (
      select from perdure.closing as c where c.kind = 'turn' and c.execution_id = t.id
    )
  union all
  select 'what runs has the turn of its shard key', r.id, e.shard_key
  from perdure.running as r
  join perdure.execution as e on e.id = r.id
  where e.shard_key is not null
    and not exists (select from perdure.turn as t where t.id = r.id)
  union all
  select 'somebody of its shard key goes before a held row', h.id, h.shard_key
  from perdure.ready as h
  where h.is_held
    and not exists (
      select from perdure.turn as t where (t.queue, t.shard_key) = (h.queue, h.shard_key)
    )
    and not exists (
      select from perdure.ready as r
      where (r.queue, r.shard_key) = (h.queue, h.shard_key) and not r.is_held and not r.is_aside
    )
    and not exists (
      select from perdure.closing as c
      join perdure.execution as e on e.id = c.execution_id
      where c.kind = 'turn' and (e.queue, e.shard_key) = (h.queue, h.shard_key)
    )
  union all
  select 'a sharded queue has all its shards', null, q.queue
  from perdure.shard_queue as q
  where q.shards <> (select count(*) from perdure.shard as s where s.queue = q.queue)
$$;

comment on function perdure.fsck() is
'One row for each violated invariant, with the execution it was found at; no row when all is well.
Reads all tables in one snapshot; changes nothing.';
