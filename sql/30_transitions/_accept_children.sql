-- Judges a whole list of children, and takes their keys, before anything of them is written.

create or replace function perdure._accept_children(
  p_children jsonb, p_finalize jsonb, p_is_sequence boolean, p_now timestamptz,
  p_parent_id bigint,
  out alike perdure._item, out items perdure._item[], out code text, out message text
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_finalize perdure._item;
  v_bad record;
  v_at int;
  v_holder bigint;
begin
  alike := perdure._template(p_children, p_now);
  if alike.task is null then
    items := perdure._resolve(p_children, p_now);
    select i.ordinality - 1 as position, i.code, i.message, i.task into v_bad
    from unnest(items) with ordinality as i
    where i.code is not null
    -- a step that sleeps may be given its key by the step before it
      and not (
        p_is_sequence and i.ordinality > 1 and i.code = 'QD026' and i.is_sleeping and i.key is null
      )
    order by i.ordinality
    limit 1;
    if v_bad.code is not null then
      code := 'QD027';
      message := format(
        'child %s (%s): %s [%s]', v_bad.position, v_bad.task, v_bad.message, v_bad.code
      );
      return;
    end if;
  end if;
  if p_finalize is not null then
    v_finalize := (perdure._resolve(jsonb_build_array(p_finalize), p_now))[1];
    if v_finalize.code is not null or v_finalize.is_sleeping
      or coalesce(v_finalize.key, v_finalize.shard_key) is not null
    then
      code := 'QD027';
      message := 'finalize: ' || coalesce(v_finalize.message, 'it cannot sleep or have a key');
      return;
    end if;
  end if;
  if alike.task is not null then
    return;
  end if;
  select i.ordinality - 1 as position, i.task, i.shard_key into v_bad
  from unnest(items) with ordinality as i
  where i.shard_key is not null
    and perdure._is_behind_itself(i.queue, i.shard_key, p_parent_id)
  order by i.ordinality
  limit 1;
  if v_bad.task is not null then
    code := 'QD027';
    message := format(
      'child %s (%s): the turn of shard_key %s is its own ancestor''s, which waits for it'
      ' [QD026]',
      v_bad.position, v_bad.task, v_bad.shard_key
    );
    return;
  end if;
  if p_is_sequence then
    items := items[1:1];
  end if;
  for v_at in
    select i.ordinality
    from unnest(items) with ordinality as i
    where i.key is not null
    order by i.key_scope, i.key, i.ordinality
  loop
    v_holder := perdure._take_key(items[v_at], p_now);
    if v_holder <> items[v_at].id then
      code := 'QD027';
      message := format(
        'child %s (%s): key %s is held by execution %s [QD003]',
        v_at - 1, items[v_at].task, items[v_at].key, v_holder
      );
      -- the keys that its siblings took
      delete from perdure.key as k
      where k.id = any(array(select i.id from unnest(items) as i where i.key is not null));
      return;
    end if;
  end loop;
end
$$;

comment on function perdure._accept_children(jsonb, jsonb, boolean, timestamptz, bigint) is
'The resolved children to begin with (of a sequence the first step only), their keys taken; or, in
`alike`, what all of them are but for their inputs; or code QD027 and the first reason against
them.';
