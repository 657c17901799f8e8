-- resume_worker: the same incarnation exchanges over a new session
-- Locks: the worker's row, FOR UPDATE: an exchange that is still under way on the old session is
-- waited for, and one that arrives later has too low a call number. So what is listed here is the
-- whole truth. The sign of life is another matter: ping_worker().

create or replace function perdure.resume_worker(
  worker uuid, held bigint[] default null, call bigint default 0
) returns table (id bigint, token int)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_worker perdure.worker;
  v_unknown perdure.running[];
begin
  perform perdure._require_read_committed();
  select w.* into v_worker
  from perdure.worker as w
  where w.incarnation = resume_worker.worker
  for update;
  if v_worker.id is null then
    v_worker := perdure._require_worker(worker);  -- refuses
  end if;
  update perdure.worker as w
  set least_call = greatest(w.least_call, resume_worker.call)
  where w.id = v_worker.id;
  with gone as (
    delete from perdure.running as r
    where r.worker_id = v_worker.id and r.id <> all(coalesce(resume_worker.held, '{}'))
    returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_unknown from gone as g;
  if perdure._hand_back(v_unknown, 1, perdure._clock()) > 0 then
    perform perdure._notify_ready();
  end if;
  return query
  select r.id, r.token from perdure.running as r where r.worker_id = v_worker.id order by r.id;
end
$$;

comment on function perdure.resume_worker(uuid, bigint[], bigint) is
'After a lost reply or connection. Leases that are not in `held` (their claim''s reply was lost) go
back to ready unharmed; the others are returned. Exchanges with a call number below `call` are
refused from now on. Raises QD007 (register anew), QD010.';
