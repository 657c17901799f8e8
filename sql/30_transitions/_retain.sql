-- Deletes what config.retention no longer keeps. By root: a tree goes when the last of it has ended
-- long enough ago and no key in force leads into it, and then as a whole. One walk over all
-- executions by id, up to the first that is too young, then a minute's rest: no index is needed,
-- and what is kept costs little. A tree is judged and deleted node by node, leaves first, over
-- several calls if need be.
-- Locks: the row of retention, SKIP LOCKED: one at a time; rows of finished, SKIP LOCKED. Whoever
-- deletes a row of finished has its execution to itself: a redrive finds none.

create or replace function perdure._retain(
  p_max int, p_now timestamptz, out amount int, out is_full boolean
)
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
  v_until timestamptz := p_now - (select c.retention from perdure.config as c);
  v_at perdure.retention;
  v_ids bigint[];
  v_trees bigint[];
  v_tree bigint;
  v_work record;
  v_left int := p_max;
begin
  amount := 0;
  is_full := perdure._is_retention_due(p_now);
  if is_full then
    select r.* into v_at
    from perdure.retention as r
    where r.next_at <= p_now
    for update skip locked;
  end if;
  if v_at.cursor is null then
    is_full := false;  -- nothing to do, or another one is at it
    return;
  end if;
  if v_at.node is not null then
    v_trees := array[v_at.cursor];
  else
    v_ids := array(
      select e.id
      from (
        select x.id, x.created_at
        from perdure.execution as x
        where x.id > v_at.cursor
        order by x.id
        limit p_max
      ) as e
      where e.created_at < v_until
      order by e.id
    );
    v_trees := array(
      select e.id
      from perdure.execution as e
      where e.id = any(v_ids) and e.parent_id is null
        and exists (select from perdure.finished as f where f.id = e.id)
        and exists (select from perdure.execution as c where c.parent_id = e.id)
      order by e.id
    );
  end if;
  foreach v_tree in array v_trees loop
    exit when v_left <= 0;
    select t.* into v_work
    from perdure._retain_tree(
      v_tree, coalesce(v_at.node, v_tree), v_at.is_doomed, v_left, v_until
    ) as t;
    amount := amount + v_work.amount;
    v_left := v_left - v_work.visited;
    v_at.cursor := v_tree;
    v_at.node := v_work.node;
    v_at.is_doomed := v_work.is_doomed;
    exit when v_at.node is not null;
  end loop;
  if v_at.node is null and v_at.cursor = coalesce(v_trees[cardinality(v_trees)], v_at.cursor) then
    is_full := coalesce(cardinality(v_ids) = p_max, true);
    v_at.cursor := coalesce(v_ids[cardinality(v_ids)], v_at.cursor);
  end if;
  amount := amount + perdure._retire(
    array(
      select e.id
      from perdure.execution as e
      where e.id = any(perdure._retirable(v_ids, v_until))
        and e.id <= v_at.cursor and e.parent_id is null
        and not exists (select from perdure.execution as c where c.parent_id = e.id)
    ),
    v_until
  );
  if not is_full then
    v_at.cursor := 0;
    v_at.next_at := p_now + interval '1 minute';
  end if;
  update perdure.retention as r
  set cursor = v_at.cursor, node = v_at.node, is_doomed = v_at.is_doomed, next_at = v_at.next_at;
end
$$;

comment on function perdure._retain(int, timestamptz) is
'Judges up to p_max executions, and deletes those that are not kept; amount: how many. is_full: the
walk goes on.';
