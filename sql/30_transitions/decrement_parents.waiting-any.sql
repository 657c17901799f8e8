-- decrement_parents: waiting -> waiting with fewer active children, and where none is left: the
-- parent's next phase or its end, which is told to its own parent in turn
-- Locks: waiting rows, one at a time, in strictly descending id (a parent is older than its
-- children), so two climbs can wait for each other but never in a circle. Whoever holds a room row of
-- an execution may wait upwards like this, never downwards. Bounded: after 1000 parents the rest is
-- left to closing.

create or replace function perdure.decrement_parents(
  parents bigint[], generations int[], counts int[], failures int[]
) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_given perdure._telling[];
  v_risen perdure._telling[] := '{}';
  v_next perdure._telling;
  v_step record;
  v_at int := 1;
  v_begun int := 0;
begin
  perform perdure._require_read_committed();
  v_given := array(
    select row(
      t.parent_id, t.generation,
      case when bool_and(t.amount is not null) then sum(t.amount) end,
      coalesce(sum(t.failures), 0)
    )::perdure._telling
    from unnest(parents, generations, counts, failures)
      as t (parent_id, generation, amount, failures)
    group by t.parent_id, t.generation
    order by t.parent_id desc, t.generation desc
  );
  for v_turn in 1 .. 1000 loop
    select r.* into v_next from unnest(v_risen) as r order by r.parent_id desc limit 1;
    if v_next.parent_id is null or v_given[v_at].parent_id >= v_next.parent_id then
      v_next := v_given[v_at];
      v_at := v_at + 1;
    else
      v_risen := array(
        select r
        from unnest(v_risen) as r
        where (r.parent_id, r.generation) <> (v_next.parent_id, v_next.generation)
      );
    end if;
    exit when v_next.parent_id is null;
    select d.* into v_step from perdure._decrement(v_next, v_now) as d;
    v_begun := v_begun + v_step.begun;
    if (v_step.telling).parent_id is not null then
      v_risen := v_risen || v_step.telling;
    end if;
  end loop;
  insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
  select case when t.amount is null then 'recount' else 'tell' end, t.parent_id, t.generation, t.amount, t.failures, v_now
  from unnest(v_risen || v_given[v_at:]) as t
  where v_next.parent_id is not null;
  return v_begun;
end
$$;

comment on function perdure.decrement_parents(bigint[], int[], int[], int[]) is
'Tells parents that `counts` of their children of this generation ended, `failures` of them not
completed; parallel arrays. A null count has the counter set anew from the children. A parent that ended or moved on is passed over. Returns how many
executions (finalize, next steps) began. Meant to be the last step of its transaction.';
