-- A child with the shard key of an ancestor that keeps the turn until its children have ended would
-- wait for it, and it for the child, for ever.

create or replace function perdure._is_behind_itself(p_queue text, p_key text, p_parent_id bigint)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return (
    with recursive ancestor as (
      select p_parent_id as id
      union all
      select e.parent_id
      from ancestor as a
      cross join lateral (
        select x.parent_id from perdure.execution as x where x.id = a.id limit 1
      ) as e
      where e.parent_id is not null
    )
    select exists (
      select
      from perdure.turn as t
      where t.queue = p_queue and t.shard_key = p_key
        and exists (select from ancestor as a where a.id = t.id)
        and exists (
          select from perdure.shard_queue as q where q.queue = p_queue and q.on_retry = 'hold'
        )
    )
  );
end
$$;

comment on function perdure._is_behind_itself(text, text, bigint) is
'True when the turn of this shard key is held by the parent, or by an ancestor of it.';
