-- One child with its outcome.

create or replace function perdure._child(
  p_parent_id bigint, p_generation int, p_position int,
  out id bigint, out task text, out status text, out output jsonb, out error jsonb
)
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
  select e.id, e.task, f.status, f.output, f.error
  from perdure.execution as e
  left join perdure.finished as f on f.id = e.id
  where e.parent_id = p_parent_id
    and e.parent_generation = p_generation
    and (e.position = p_position or (p_position is null and e.position is null))
$$;

comment on function perdure._child(bigint, int, int) is
'The child at a position, or the finalize execution where p_position is null.';
