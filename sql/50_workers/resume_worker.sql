-- resume_worker: the same incarnation on a new session
-- Locks: the session advisory lock; the worker's row, FOR UPDATE: an exchange that is still under
-- way on the old session is waited for, and one that arrives later has too low a call number. So
-- what is listed here is the whole truth.

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
    raise exception 'this worker is not registered, or its work was taken away'
      using errcode = 'QD007', hint = 'Register anew with perdure.register_worker.';
  end if;
  if not pg_try_advisory_lock((select c.lock_namespace from perdure.config as c), v_worker.id) then
    raise exception 'another session of this worker is still alive'
      using errcode = 'QD009', hint = 'Try again: the server notices a dead session soon.';
  end if;
  update perdure.worker as w
  set lost_at = null, least_call = greatest(w.least_call, resume_worker.call)
  where w.id = v_worker.id;
  with gone as (
    delete from perdure.running as r
    where r.worker_id = v_worker.id and r.id <> all(coalesce(resume_worker.held, '{}'))
    returning r.*
  )
  select array_agg(row(g.*)::perdure.running) into v_unknown from gone as g;
  perform perdure._hand_back(v_unknown, 1, perdure._clock());
  return query
  select r.id, r.token from perdure.running as r where r.worker_id = v_worker.id order by r.id;
end
$$;

comment on function perdure.resume_worker(uuid, bigint[], bigint) is
'Takes an incarnation over to this session. Leases that are not in `held` (their claim''s reply was
lost) go back to ready unharmed; the others are returned. Exchanges with a call number below `call`
are refused from now on. Raises QD007 (register anew), QD009 (the old session is still there),
QD010.';
