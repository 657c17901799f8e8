-- As _set_aside, in the lines of the shards: the heads of all lines are looked at, about 1000 rows
-- together; only if something foreign stands there, about p_max. One that is set aside does not
-- keep its key back, unless it has begun.
-- Locks: rows of ready, SKIP LOCKED.

create or replace function perdure._set_aside_in_shards(p_queue text, p_known text[], p_max int)
returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
as $$
declare
  v_shards int := (select q.shards from perdure.shard_queue as q where q.queue = p_queue);
  v_each int;
  v_ids bigint[];
  v_keys text[];
begin
  if v_shards is null or (
    select r.id
    from perdure.ready as r
    where r.queue = p_queue and r.shard is not null and not r.is_held and not r.is_aside
    order by r.queue, r.shard
    limit 1
  ) is null then
    return 0;
  end if;
  foreach v_each in array array[1000, p_max] loop
    v_ids := array(
      select h.id
      from perdure.shard as s
      cross join lateral (
        select r.id, r.task
        from perdure.ready as r
        where r.queue = p_queue and r.shard >= s.number and r.shard <= s.number
          and not r.is_held and not r.is_aside
        order by r.shard, r.id
        limit greatest(1, v_each / v_shards)
      ) as h
      where s.queue = p_queue and h.task <> all(p_known)
    );
    if cardinality(v_ids) = 0 then
      return 0;
    end if;
  end loop;
  with aside as (
    update perdure.ready as r
    set is_aside = true
    where r.id = any(array(
      select x.id
      from perdure.ready as x
      where x.id = any(v_ids) and not x.is_held and not x.is_aside
      for update skip locked
    ))
    returning r.id, r.shard_key
  )
  select array_agg(a.id), array_agg(a.shard_key) into v_ids, v_keys from aside as a;
  if v_ids is null then
    return 0;
  end if;
  perform perdure._call_next(
    v_ids, array_fill(p_queue, array[cardinality(v_ids)]), v_keys, '{}', perdure._clock()
  );
  return cardinality(v_ids);
end
$$;

comment on function perdure._set_aside_in_shards(text, text[], int) is
'Sets aside executions in the shards of a queue whose task is not among p_known; how many.';
