-- One look at the lines of some shards, each from where the last one ended.
-- Locks, and why: _shard_candidates. What is free is read together with the rows, in one snapshot:
-- there the oldest row of a free key that is due stands in the line. Nearly always: where closing
-- still owes to call it, a younger one does not pass it, but has it called.

create or replace function perdure._look(
  p_worker_id int, p_queue text, p_tasks text[], p_shards int[], p_after bigint[], p_each int,
  p_max int, p_budget bigint, p_closed text[],
  out ids bigint[], out bytes bigint, out shards int[], out after bigint[], out closed text[],
  out has_called boolean
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_sort = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids bigint[];
  v_numbers int[];
  v_keys text[];
  v_bytes int[];
  v_holders bigint[];
  v_firsts bigint[];  -- of those that are held
  v_called bigint[];
  v_before text[] := '{}';
  v_own int[];
  v_locked bigint[];
  v_standing bigint[];
  v_taken text[];
  v_held bigint[];
begin
  select coalesce(array_agg(l.id order by l.id), '{}'), array_agg(l.shard order by l.id),
    array_agg(l.shard_key order by l.id), array_agg(l.bytes order by l.id),
    array_agg(l.holder order by l.id), array_agg(l.first_held order by l.id)
  into v_ids, v_numbers, v_keys, v_bytes, v_holders, v_firsts
  from (
    select r.*, (
      select t.id from perdure.turn as t where t.queue = p_queue and t.shard_key = r.shard_key
    ) as holder, (
      select h.id
      from perdure.ready as h
      where h.queue = p_queue and h.shard_key >= r.shard_key and h.shard_key <= r.shard_key
        and h.is_held
      order by h.shard_key, h.id
      limit 1
    ) as first_held
    from unnest(p_shards, p_after) as s (number, after)
    cross join lateral (
      select x.id, x.shard, x.shard_key, x.bytes
      from perdure.ready as x
      -- a range of one shard: were it an equality, the primary key would give the order too, and
      -- be read from its beginning
      where x.queue = p_queue and (x.shard, x.id) > (s.number, s.after) and x.shard <= s.number
        and not x.is_held and not x.is_aside
        and (p_tasks is null or x.task = any(p_tasks))
      order by x.shard, x.id
      limit p_each
    ) as r
  ) as l;
  v_own := array(
    select s.number
    from perdure.shard as s
    where s.queue = p_queue and s.number = any(v_numbers) and s.worker_id = p_worker_id
    for key share skip locked
  );
  v_locked := array(
    select r.id
    from perdure.ready as r
    where r.id = any(array(  -- by id and nothing else: no other index may seem to fit
      select u.id from unnest(v_ids, v_numbers) as u (id, number) where u.number = any(v_own)
    )) and not r.is_held and not r.is_aside
    for update skip locked
  );
  v_standing := array(
    select t.id
    from perdure.turn as t
    where t.id = any(v_holders)
    for key share skip locked
  );
  if 0 < any(p_after) then
    -- a key may have fallen free since the last look, and one of it come into the line behind that
    v_before := array(
      select distinct b.shard_key
      from unnest(p_shards, p_after) as s (number, after)
      cross join lateral (
        select x.shard_key
        from perdure.ready as x
        where x.queue = p_queue and x.shard >= s.number and x.shard <= s.number
          and x.id <= s.after and not x.is_held and not x.is_aside
        order by x.shard, x.id
      ) as b
      where b.shard_key = any(v_keys)
    );
  end if;
  -- the first of each free key, and whoever has the turn already
  select coalesce(array_agg(c.id), '{}'), coalesce(sum(c.bytes), 0),
    coalesce(array_agg(c.shard_key) filter (where c.holder is null), '{}')
  into ids, bytes, v_taken
  from (
    select a.*, sum(a.bytes) over (order by a.id) - a.bytes as before
    from (
      select f.*
      from (
        select u.*, row_number() over (partition by u.shard_key order by u.id) as place
        from unnest(v_ids, v_keys, v_bytes, v_holders, v_firsts) as u (
          id, shard_key, bytes, holder, first_held
        )
      ) as f
      where f.id = any(v_locked)
        and f.shard_key <> all(p_closed)
        and (
          f.holder = f.id and f.id = any(v_standing)
          or f.holder is null and f.place = 1 and (f.first_held < f.id) is not true
            and f.shard_key <> all(v_before)
        )
      order by f.id
      limit p_max
    ) as a
  ) as c
  where c.before < p_budget;
  with took as (
    insert into perdure.turn (queue, shard_key, id)
    select p_queue, u.shard_key, u.id
    from unnest(v_ids, v_keys) as u (id, shard_key)
    where u.id = any(ids) and u.shard_key = any(v_taken)
    order by u.id
    on conflict do nothing
    returning shard_key
  )
  select coalesce(array_agg(t.shard_key), '{}') into v_taken from took as t;
  ids := array(
    select u.id
    from unnest(v_ids, v_keys, v_holders) as u (id, shard_key, holder)
    where u.id = any(ids) and (u.holder is not null or u.shard_key = any(v_taken))
    order by u.id
  );
  v_held := array(
    select u.id
    from unnest(v_ids, v_keys, v_holders) as u (id, shard_key, holder)
    where u.id = any(v_locked)
      and u.id <> all(ids)
      and u.shard_key <> all(p_closed)
      and (u.holder <> u.id and u.holder = any(v_standing) or u.shard_key = any(v_taken))
  );
  update perdure.ready as r set is_held = true where r.id = any(v_held);
  v_called := array(
    select distinct u.first_held
    from unnest(v_ids, v_holders, v_firsts) as u (id, holder, first_held)
    where u.holder is null and u.first_held < u.id
  );
  has_called := cardinality(v_called) > 0 or exists (
    select
    from unnest(v_keys, v_holders) as u (shard_key, holder)
    where u.holder is null and u.shard_key = any(v_before)
  );
  if cardinality(v_called) > 0 then
    update perdure.ready as r
    set is_held = false
    where r.id = any(array(
      select x.id from perdure.ready as x where x.id = any(v_called) for update skip locked
    ));
  end if;
  closed := array(
    select distinct u.shard_key
    from unnest(v_ids, v_keys) as u (id, shard_key)
    where u.id <> all(ids || v_held)
  );
  select coalesce(array_agg(f.number), '{}'), coalesce(array_agg(f.last), '{}')
  into shards, after
  from (
    select u.number, max(u.id) as last
    from unnest(v_ids, v_numbers) as u (id, number)
    where u.number = any(v_own)
    group by u.number
    having count(*) = p_each
  ) as f;
end
$$;

comment on function perdure._look(
  int, text, text[], int[], bigint[], int, int, bigint, text[]
) is
'What to claim among the next p_each rows of each shard; the shards that have more, and after which
id; closed: keys whose rows were left in the line; has_called: an older one of such a key stands
there now.';
