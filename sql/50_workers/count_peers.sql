-- count_peers: who else would do what this worker does
-- Of many idle workers few have to answer an enqueue. Each of them decides for itself, by this
-- number, which it learns with its signs of life. The owner of a shard is alone with what stands
-- there; who lives behind a pooler hears nothing and does not count. No more than 64 are counted:
-- large fleets pay little for it.

create or replace function perdure.count_peers(worker uuid) returns int
language plpgsql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker := perdure._require_worker(worker);
begin
  if exists (select from perdure.shard as s where s.worker_id = v_worker.id) then
    return 1;
  end if;
  return greatest(1, count(*))
  from (
    select
    from perdure.worker as w
    where w.lost_at is null and w.mode = 'session' and w.queues @> v_worker.queues
      and (w.tasks is null or w.tasks @> v_worker.tasks)
    limit 64
  ) as peer;
end
$$;

comment on function perdure.count_peers(uuid) is
'How many live workers can do all that this one does, itself included: 64 stands for more, and those
in lease mode are left out, since they hear of nothing. 1 while it owns a shard. Raises QD007.';
