-- A worker's sign of life. In session mode the lock is taken by this session unless it has it; it
-- is taken once, since session locks stack. Nothing is written where nothing changes.
-- Locks: the session advisory lock, not waited for; in lease mode the row of worker_lease.

create or replace function perdure._keep_alive(p_worker perdure.worker) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p_worker.mode = 'lease' then
    insert into perdure.worker_lease (worker_id, expires_at)
    values (p_worker.id, perdure._clock() + p_worker.ttl)
    on conflict (worker_id) do update set expires_at = excluded.expires_at;
  elsif p_worker.id <> all(perdure._locked_keys(pg_backend_pid()))
    and not pg_try_advisory_lock(
      (select c.lock_namespace from perdure.config as c), p_worker.id
    )
  then
    raise exception 'another session of this worker is still alive'
      using errcode = 'QD009', hint = 'Try again: the server notices a dead session soon.';
  end if;
end
$$;

comment on function perdure._keep_alive(perdure.worker) is
'Takes the worker''s lock for this session, or renews its lease. Raises QD009 where another session
has the lock.';
