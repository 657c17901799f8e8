-- What is left of _reported() where fewer leases could be taken than were found.

create or replace function perdure._still_reported(
  p_gone bigint[], p_leases perdure.running[], p_places int[], p_kinds int[],
  out ids bigint[], out leases perdure.running[], out places int[], out kinds int[]
)
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  select
    array_agg(t.id), array_agg(p_leases[t.n]), array_agg(p_places[t.n]), array_agg(p_kinds[t.n])
  into ids, leases, places, kinds
  from (
    select r.id, max(r.ordinality) as n
    from unnest(p_leases) with ordinality as r
    where r.id = any(p_gone)
    group by r.id
  ) as t;
end
$$;

comment on function perdure._still_reported(bigint[], perdure.running[], int[], int[]) is
'The same arrays for the ids in p_gone alone, each once, with its last outcome.';
