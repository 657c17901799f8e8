-- enqueue_many: new -> ready
-- Or scheduled, or sleeping; set by set.
-- Runs in the caller's transaction. Locks: keys, in ascending order, so that two batches cannot
-- deadlock on them. Each item is judged alone.

create or replace function perdure.enqueue_many(items jsonb, notify boolean default true)
returns table (item int, id bigint, is_new boolean, code text, message text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := perdure._clock();
  v_alike perdure._item;
  v_items perdure._item[];
  v_new perdure._item[];
  v_at int;
  v_first int;  -- the last one that took its key
  v_holder bigint;
begin
  if jsonb_typeof(items) is distinct from 'array' then
    raise exception 'items have to be a JSON array, got %', coalesce(jsonb_typeof(items), 'null')
      using errcode = 'QD021';
  end if;
  v_alike := perdure._template(items, v_now);
  if v_alike.task is not null then
    return query
    select (i.n - 1)::int, i.id, true, null::text, null::text
    from unnest(perdure._insert_alike(v_alike, items, v_now)) with ordinality as i (id, n);
    if enqueue_many.notify then
      perform perdure._notify_ready(array[v_alike.queue], jsonb_array_length(items));
    end if;
    return;
  end if;
  v_items := perdure._resolve(items, v_now);
  for v_at in
    select i.ordinality
    from unnest(v_items) with ordinality as i
    where i.code is null and i.key is not null
    order by i.key_scope, i.key, i.ordinality
  loop
    v_holder := perdure._take_key(v_items[v_at], v_now);
    if v_holder = v_items[v_at].id then
      v_first := v_at;
    else
      v_items[v_at] := perdure._taken(v_items[v_at], v_holder, v_items[v_first]);
    end if;
  end loop;
  v_new := array(
    select row(i.*)::perdure._item
    from unnest(v_items) as i
    where i.code is null and not i.is_taken
  );
  perform perdure._insert(v_new, v_now);
  if enqueue_many.notify then
    perform perdure._announce(v_new, v_now);
  end if;
  return query
  select
    (i.ordinality - 1)::int,
    case when i.code is null then i.id end,
    i.code is null and not i.is_taken,
    i.code,
    i.message
  from unnest(v_items) with ordinality as i
  order by i.ordinality;
end
$$;

comment on function perdure.enqueue_many(jsonb, boolean) is
'Enqueues a JSON array of items ({"task", "input", and any argument of enqueue}); one row for each,
in order: its id (is_new is false where its key was in force), or code and message where it was
refused. Durations: seconds as a number, or an interval as a string. Raises QD021 when items is not
an array.';
