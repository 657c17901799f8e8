-- The smallest free machine id is found by trying: of two workers that register at the same time,
-- the second waits for the first one's commit, and takes the next number.

create or replace function perdure._add_worker(p_worker perdure.worker) returns perdure.worker
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  for v_try in 1 .. 1000 loop  -- each turn lost a race
    insert into perdure.worker (
      incarnation, registered_at, name, queues, tasks, info, machine_id, weight, mode, ttl
    )
    select
      p_worker.incarnation, perdure._clock(), p_worker.name, p_worker.queues, p_worker.tasks,
      p_worker.info, f.machine_id, p_worker.weight, p_worker.mode, p_worker.ttl
    from (
      select min(n.machine_id) as machine_id
      from (
        select 1 as machine_id
        union all
        select w.machine_id + 1 from perdure.worker as w
      ) as n
      where not exists (select from perdure.worker as o where o.machine_id = n.machine_id)
    ) as f
    on conflict do nothing
    returning * into v_worker;
    exit when found;
    select w.* into v_worker from perdure.worker as w where w.incarnation = p_worker.incarnation;
    exit when found;  -- the same one, registered by another session at the same time
  end loop;
  if v_worker.id is null then
    raise exception 'no machine id was free' using errcode = 'serialization_failure';
  end if;
  return v_worker;
end
$$;

comment on function perdure._add_worker(perdure.worker) is
'Inserts a worker under the smallest free machine id; the row.';
