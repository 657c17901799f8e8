-- Where setting aside has something to do. Nothing of a queue's backlog is read but the head of its
-- line, and of the line of each shard: what stands behind is in nobody's way yet.

create or replace function perdure._misplaced(p_channels text[]) returns setof text
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
  select q.name
  from (
    select
      u.name,
      bool_or(w.tasks is null) as knows_all,
      array(
        select distinct t.name
        from perdure.worker as x
        cross join unnest(x.tasks) as t (name)
        where x.lost_at is null and u.name = any(x.queues)
      ) as known
    from perdure.worker as w
    cross join unnest(w.queues) as u (name)
    where w.lost_at is null and (p_channels is null or u.name = any(p_channels))
    group by u.name
  ) as q
  where q.knows_all and exists (
    select from perdure.ready as r where r.is_aside and r.queue = q.name
  )
  or not q.knows_all and exists (
    select
    from unnest(q.known) as k (name)
    cross join lateral (
      select from perdure.ready as r
      where r.is_aside and r.queue = q.name and r.task = k.name
      limit 1
    ) as r
  )
  or not q.knows_all and exists (
    select
    from (
      select r.task
      from perdure.ready as r
      where r.queue = q.name and not r.is_aside and r.shard is null
      order by r.priority, r.start_at, r.id
      limit 100
    ) as head
    where head.task <> all(q.known)
  )
  or not q.knows_all and exists (
    select
    from (  -- one probe where no shard has anything
      select from perdure.ready as r
      where r.queue = q.name and r.shard is not null and not r.is_held and not r.is_aside
      limit 1
    ) as any_shard
    cross join lateral (
      select s.number from perdure.shard as s where s.queue = q.name offset 0
    ) as s
    cross join lateral (
      select r.task
      from perdure.ready as r
      where r.queue = q.name and r.shard = s.number and not r.is_held and not r.is_aside
      order by r.id
      limit 1
    ) as head
    where head.task <> all(q.known)
  );
end
$$;

comment on function perdure._misplaced(text[]) is
'Queues (of p_channels; null: all) that have live workers and, at their head, executions that none
of them knows, or aside some that one knows.';
