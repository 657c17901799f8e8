-- _end_descendants: any -> finished
-- Every live descendant of ended executions is cancelled.
-- Locks: room rows, SKIP LOCKED. A node is out of its room before its children are read, in a new
-- statement, so a node that spawns meanwhile cannot leave live leaves. Bounded by p_limit: what is
-- left over, and what was locked by others, goes to closing.

create or replace function perdure._end_descendants(
  p_nodes bigint[], p_generation int, p_position int, p_error jsonb, p_limit int,
  p_now timestamptz, out amount int, out tellings perdure._telling[]
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
  v_nodes bigint[] := p_nodes;
  v_node bigint;
  v_generation int := p_generation;
  v_position int := p_position;
  v_children bigint[];
  v_ended record;
begin
  amount := 0;
  while cardinality(v_nodes) > 0 and amount < p_limit loop
    v_node := v_nodes[1];
    v_generation := coalesce(v_generation, perdure._next_generation(v_node) - 1);
    select array_agg(c.id), max(c.position) into v_children, v_position
    from (
      select e.id, e.position
      from perdure.execution as e
      where e.parent_id = v_node
        and e.parent_generation = v_generation
        and e.position > coalesce(v_position, -1)
      order by e.parent_id, e.parent_generation, e.position
      limit least(1000, p_limit - amount)
    ) as c;
    if v_children is null then  -- past the last child: its finalize
      v_children := array(
        select e.id
        from perdure.execution as e
        where e.parent_id = v_node and e.parent_generation = v_generation and e.position is null
          -- a parent that failed fast and goes on must not lose it
          and not exists (select from perdure.waiting as w where w.id = v_node)
      );
      v_nodes := v_nodes[2:];
      v_generation := null;
      v_position := null;
      continue when cardinality(v_children) = 0;
    end if;
    select l.* into v_ended from perdure._end_live(v_children, 'cancelled', p_error, p_now) as l;
    amount := amount + cardinality(v_children);
    v_nodes := v_nodes || v_ended.parents;
    tellings := tellings || v_ended.tellings;
    insert into perdure.closing (kind, execution_id, status, error, due_at)
    select 'end', c.id, 'cancelled', p_error, p_now
    from unnest(v_children) as c (id)
    where not (c.id = any(coalesce(v_ended.ended, '{}')))
      and not exists (select from perdure.finished as f where f.id = c.id);
  end loop;
  insert into perdure.closing (
    kind, execution_id, generation, position, status, error, due_at
  )
  select
    'end', n.id, case when n.ordinality = 1 then v_generation end,
    case when n.ordinality = 1 then v_position end, 'cancelled', p_error, p_now
  from unnest(v_nodes) with ordinality as n (id);
end
$$;

comment on function perdure._end_descendants(bigint[], int, int, jsonb, int, timestamptz) is
'Cancels the live descendants of p_nodes (of the first one: children of p_generation after
p_position), about p_limit of them. amount: children looked at; tellings: for decrement_parents().';
