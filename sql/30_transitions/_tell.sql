-- The last step of every transaction that ended executions.

create or replace function perdure._tell(p_tellings perdure._telling[]) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_parents bigint[];
  v_generations int[];
  v_amounts int[];
  v_failures int[];
begin
  if p_tellings is null then
    return 0;
  end if;
  select
    array_agg(t.parent_id), array_agg(t.generation), array_agg(t.amount), array_agg(t.failures)
  into v_parents, v_generations, v_amounts, v_failures
  from unnest(p_tellings) as t;
  return perdure.decrement_parents(v_parents, v_generations, v_amounts, v_failures);
end
$$;

comment on function perdure._tell(perdure._telling[]) is
'decrement_parents() for collected tellings; null for none. Returns how many executions began.';
