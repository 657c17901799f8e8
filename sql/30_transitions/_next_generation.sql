-- Each parking of an execution has a number; only children of the same one count.

create or replace function perdure._next_generation(p_id bigint) returns int
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return coalesce(
    (
      select e.parent_generation
      from perdure.execution as e
      where e.parent_id = p_id
      -- all of the index, so that it is read from its end
      order by e.parent_id desc, e.parent_generation desc, e.position desc
      limit 1
    ), 0
  ) + 1;
end
$$;

comment on function perdure._next_generation(bigint) is
'One more than the generation of its youngest children; 1 where there are none.';
