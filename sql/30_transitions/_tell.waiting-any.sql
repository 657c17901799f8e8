-- _tell: waiting -> any
-- Waiting with fewer active children, and where none is left: the parent's next phase or its end,
-- which is told to its own parent in turn. The last step of every transaction that ended
-- executions.
-- Locks: waiting rows, one at a time, in strictly descending id (a parent is older than its
-- children), so two climbs can wait for each other but never in a circle. Whoever holds a room row
-- of an execution may wait upwards like this, never downwards. Housekeeping ends executions of many
-- trees in one transaction, so no order of its waits would be safe: it is not patient, and leaves a
-- parent whose row is locked to closing. Bounded: after 1000 parents, or at p_until, the rest is
-- left to closing.

create or replace function perdure._tell(
  p_tellings perdure._telling[], p_is_patient boolean, p_until timestamptz default null
) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
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
  if p_tellings is null then
    return 0;
  end if;
  v_given := array(
    select row(
      t.parent_id, t.generation,
      case when bool_and(t.amount is not null) then sum(t.amount) end,
      coalesce(sum(t.failures), 0)
    )::perdure._telling
    from unnest(p_tellings) as t
    group by t.parent_id, t.generation
    order by t.parent_id desc, t.generation desc
  );
  for v_turn in 1 .. 1000 loop
    -- several children of one parent may have ended during this climb: it is told once
    select r.parent_id, r.generation, sum(r.amount), sum(r.failures) into v_next
    from unnest(v_risen) as r
    group by r.parent_id, r.generation
    order by r.parent_id desc, r.generation desc
    limit 1;
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
    select d.* into v_step from perdure._decrement(v_next, p_is_patient, v_now) as d;
    v_begun := v_begun + v_step.begun;
    if (v_step.telling).parent_id is not null then
      v_risen := v_risen || v_step.telling;
    end if;
    exit when clock_timestamp() >= p_until;
  end loop;
  insert into perdure.closing (kind, execution_id, generation, amount, failures, due_at)
  select
    case when t.amount is null then 'recount' else 'tell' end, t.parent_id, t.generation, t.amount,
    t.failures, v_now
  from unnest(v_risen || v_given[v_at:]) as t
  where v_next.parent_id is not null;
  return v_begun;
end
$$;

comment on function perdure._tell(perdure._telling[], boolean, timestamptz) is
'Applies collected tellings (null for none); returns how many executions began. p_is_patient: waits
for a locked parent; otherwise that one is told later, by close_batch(), as is what is left at
p_until (real time; null: no limit).';
