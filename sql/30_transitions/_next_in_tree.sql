-- The order in which a tree is walked: a node, then what is below it, then its next sibling. Known
-- from the node alone, so that a walk needs to remember nothing else.

create or replace function perdure._next_in_tree(p_root bigint, p_node bigint) returns bigint
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_node perdure.execution;
  v_next bigint;
begin
  select e.id into v_next
  from perdure.execution as e
  where e.parent_id = p_node
  order by e.parent_id, e.parent_generation, e.position
  limit 1;
  v_node.id := p_node;
  while v_next is null and v_node.id <> p_root loop  -- upwards: bounded by the depth
    select e.* into v_node from perdure.execution as e where e.id = v_node.id;
    v_next := coalesce(
      (
        select e.id
        from perdure.execution as e
        where e.parent_id = v_node.parent_id and e.parent_generation = v_node.parent_generation
          and e.position > v_node.position
        order by e.position
        limit 1
      ),
      (  -- a finalize comes last
        select e.id
        from perdure.execution as e
        where e.parent_id = v_node.parent_id and e.parent_generation = v_node.parent_generation
          and e.position is null and v_node.position is not null
        limit 1
      ),
      (
        select e.id
        from perdure.execution as e
        where e.parent_id = v_node.parent_id and e.parent_generation > v_node.parent_generation
        order by e.parent_generation, e.position
        limit 1
      )
    );
    v_node.id := v_node.parent_id;
  end loop;
  return v_next;
end
$$;

comment on function perdure._next_in_tree(bigint, bigint) is
'The node that follows p_node in the tree below p_root, depth first; null after the last.';
