-- One tree, from the node that was reached last time. First it is judged, parents before children;
-- one node that is to be kept keeps all. Then it goes, leaves first, so that no parent is missing
-- while a child is there. Without recursion: any depth, any breadth, so many nodes a call.
-- Locks: as _retire. A node that is redriven meanwhile keeps what is left of its tree.

create or replace function perdure._retain_tree(
  p_root bigint, p_node bigint, p_is_doomed boolean, p_max int, p_until timestamptz,
  out node bigint, out is_doomed boolean, out amount int, out visited int
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
  v_children bigint[];
  v_leaves bigint[];
  v_parent bigint;
  v_retired int;
begin
  node := p_node;
  is_doomed := p_is_doomed;
  amount := 0;
  visited := 0;
  while node is not null and visited < p_max loop
    visited := visited + 1;
    if not is_doomed then
      if perdure._retirable(array[node], p_until) = '{}' then
        node := null;
      else
        node := perdure._next_in_tree(p_root, node);
        is_doomed := node is null;
        node := coalesce(node, p_root);
      end if;
      continue;
    end if;
    v_children := array(
      select e.id
      from perdure.execution as e
      where e.parent_id = node
      order by e.parent_id, e.parent_generation, e.position
      limit p_max - visited + 1
    );
    v_leaves := array(
      select c.id
      from unnest(v_children) as c (id)
      where not exists (select from perdure.execution as e where e.parent_id = c.id)
    );
    if cardinality(v_leaves) = 0 and cardinality(v_children) > 0 then
      node := v_children[1];
      continue;
    elsif cardinality(v_leaves) = 0 then
      v_leaves := array[node];
      select e.parent_id into v_parent from perdure.execution as e where e.id = node;
      node := v_parent;
    end if;
    v_retired := perdure._retire(v_leaves, p_until);
    amount := amount + v_retired;
    visited := visited + v_retired;
    if v_retired < cardinality(v_leaves) then
      node := null;
    end if;
  end loop;
  is_doomed := is_doomed and node is not null;
end
$$;

comment on function perdure._retain_tree(bigint, bigint, boolean, int, timestamptz) is
'Judges or deletes about p_max nodes of the tree of p_root. node, is_doomed: where to go on; node
null: done with it. amount: nodes deleted; visited: nodes looked at.';
