-- One execution, whatever its status.

create or replace function perdure.get_execution(id bigint) returns setof perdure.executions
language plpgsql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return query select x.* from perdure.executions as x where x.id = get_execution.id;
  if not found then
    raise exception 'there is no execution %', get_execution.id using errcode = 'QD001';
  end if;
end
$$;

comment on function perdure.get_execution(bigint) is
'The row of perdure.executions for one id. Raises QD001.';
