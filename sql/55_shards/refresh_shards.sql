-- refresh_shards: a worker asks which of its shards are still its own
-- Reads only: the owner of a shard lives as long as its worker, so there is nothing to prolong.

create or replace function perdure.refresh_shards(worker uuid, queue text, numbers int[])
returns table (number int, epoch bigint, is_held boolean)
language plpgsql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_worker perdure.worker;
begin
  select w.* into v_worker from perdure.worker as w where w.incarnation = refresh_shards.worker;
  if v_worker.id is null then
    raise exception 'this worker is not registered, or its work was taken away'
      using errcode = 'QD007', hint = 'Register anew with perdure.register_worker.';
  end if;
  return query
  select n.number, s.epoch, coalesce(s.worker_id = v_worker.id, false)
  from (select distinct u.number from unnest(refresh_shards.numbers) as u (number)) as n
  left join perdure.shard as s on s.queue = refresh_shards.queue and s.number = n.number
  order by n.number;
end
$$;

comment on function perdure.refresh_shards(uuid, text, int[]) is
'Each of the shards, with its epoch; is_held is false where this worker has lost it, or never had
it. Raises QD007.';
