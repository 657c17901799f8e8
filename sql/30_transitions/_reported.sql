-- The leases that a batch of outcomes is about. An item that names none, in whatever way, is passed
-- over; hence the handler: numbers are checked by reading them, for that is four times as fast.

create or replace function perdure._reported(
  p_worker_id int, p_outcomes jsonb, p_limit int,
  out ids bigint[], out leases perdure.running[], out places int[], out kinds int[]
)
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_legible jsonb;
begin
  select
    array_agg(l.id), array_agg(l.lease), array_agg(o.place),
    array_agg(case when not o.is_done then 0 when l.has_ties then 2 else 1 end)
  into ids, leases, places, kinds
  from (
    select
      x.id, x.token, (x.place - 1)::int as place,
      coalesce(
        x.outcome = 'completed' and perdure._exceeds(x.output, p_limit) is not true, false
      ) as is_done
    from rows from (
      jsonb_to_recordset(p_outcomes) as (id bigint, token int, outcome text, output jsonb)
    ) with ordinality as x (id, token, outcome, output, place)
  ) as o
  cross join lateral (  -- limited, so that it stays a probe for each, and of this index
    select
      r as lease, r.id, r.token, r.worker_id,
      r.is_keyed or r.parent_id is not null or r.deadline_at is not null as has_ties
    from perdure.running as r
    where r.id = o.id
    limit 1
  ) as l
  where l.token = o.token and l.worker_id = p_worker_id;
exception
  when data_exception then
    select
      jsonb_agg(case when perdure._names_a_lease(o.value) then o.value else '{}' end order by o.n)
    into v_legible
    from jsonb_array_elements(p_outcomes) with ordinality as o (value, n);
    if v_legible = p_outcomes then
      raise;
    end if;
    select r.* into ids, leases, places, kinds
    from perdure._reported(p_worker_id, v_legible, p_limit) as r;
end
$$;

comment on function perdure._reported(int, jsonb, int) is
'Parallel arrays: the leases of this worker that the outcomes name, by id and token, the place of
each outcome in p_outcomes (from 0), and its kind: 1 for an acceptable `completed`, 2 where that one
has a key, a parent or a deadline, 0 for all others.';
