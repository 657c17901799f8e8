-- decrement_parents: waiting -> any
-- Waiting with fewer active children, the next phase, or an end.
-- Locks: waiting rows, one at a time, in strictly descending id, as _tell.

create or replace function perdure.decrement_parents(
  parents bigint[], generations int[], counts int[], failures int[]
) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_begun int;
begin
  perform perdure._require_read_committed();
  v_begun := perdure._tell(
    array(
      select row(t.parent_id, t.generation, t.amount, t.failures)::perdure._telling
      from unnest(parents, generations, counts, failures)
        as t (parent_id, generation, amount, failures)
    ),
    true
  );
  if v_begun > 0 then
    perform perdure._notify_ready();
  end if;
  return v_begun;
end
$$;

comment on function perdure.decrement_parents(bigint[], int[], int[], int[]) is
'Tells parents that `counts` of their children of this generation ended, `failures` of them not
completed; parallel arrays. A null count has the counter set anew from the children. A parent that
ended or moved on is passed over. Returns how many executions (finalize, next steps) began. Meant to
be the last step of its transaction. Raises QD010.';
