-- What a waiting client polls: an index probe for each id.

create or replace function perdure.outcomes(ids bigint[])
returns table (id bigint, status text, output jsonb, error jsonb)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select f.id, f.status, f.output, f.error
  from perdure.finished as f
  where f.id = any(ids)
$$;

comment on function perdure.outcomes(bigint[]) is
'Outcomes of those of the executions that have ended.';
