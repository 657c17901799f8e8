-- One child with its outcome.

create or replace function perdure._child(
  p_parent_id bigint, p_generation int, p_position int,
  out id bigint, out task text, out status text, out output jsonb, out error jsonb
)
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  select e.id, e.task, f.status, f.output, f.error into id, task, status, output, error
  from (
    -- a branch for each, so that either condition can bound the index
    select s.id, s.task
    from perdure.execution as s
    where s.parent_id = p_parent_id
      and s.parent_generation = p_generation
      and s.position = p_position
    union all
    select s.id, s.task
    from perdure.execution as s
    where p_position is null
      and s.parent_id = p_parent_id
      and s.parent_generation = p_generation
      and s.position is null
  ) as e
  left join lateral (
    select x.status, x.output, x.error from perdure.finished as x where x.id = e.id limit 1
  ) as f on true;
end
$$;

comment on function perdure._child(bigint, int, int) is
'The child at a position, or the finalize execution where p_position is null.';
