-- Executions of a task that no live worker of their queue knows would be stepped over by every
-- claim: they are set aside until such a worker comes. A queue without any live worker is left
-- alone, for nobody claims there. The head of the line is looked at: only if something foreign
-- stands in its first 1000 rows, the first p_max.
-- Locks: rows of ready, SKIP LOCKED.

create or replace function perdure._set_aside(p_queue text, p_max int) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_known text[];
  v_count int := 0;
  v_moved int := 0;
begin
  if exists (
    select from perdure.worker as w
    where w.lost_at is null and p_queue = any(w.queues) and w.tasks is null
  ) then
    return perdure._bring_back(array[p_queue], null, p_max);
  end if;
  v_known := array(
    select distinct t.name
    from perdure.worker as w, unnest(w.tasks) as t (name)
    where w.lost_at is null and p_queue = any(w.queues)
  );
  if exists (select from perdure.ready as r where r.is_aside and r.queue = p_queue) then
    v_count := perdure._bring_back(array[p_queue], v_known, p_max);
  end if;
  if exists (
    select
    from (
      select r.task
      from perdure.ready as r
      where r.queue = p_queue and not r.is_aside and r.shard is null
      order by r.priority, r.start_at, r.id
      limit 1000
    ) as head
    where head.task <> all(v_known)
  ) then
    update perdure.ready as r
    set is_aside = true
    where r.id = any(array(
      select x.id
      from perdure.ready as x
      where x.task <> all(v_known) and not x.is_aside and x.id = any(array(
        select h.id
        from perdure.ready as h
        where h.queue = p_queue and not h.is_aside and h.shard is null
        order by h.priority, h.start_at, h.id
        limit p_max
      ))
      for update skip locked
    ));
    get diagnostics v_moved = row_count;
  end if;
  return v_count + v_moved + perdure._set_aside_in_shards(p_queue, v_known, p_max);
end
$$;

comment on function perdure._set_aside(text, int) is
'Sets aside, or brings back, up to p_max executions of a queue; returns how many were moved.';
