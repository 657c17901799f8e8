-- ping_worker: this worker lives, and this session shows it
-- Locks: the worker's row where a sweep had marked it as lost; then, as a sweep does that gives it
-- up, its lease: as _keep_alive.

create or replace function perdure.ping_worker(worker uuid) returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker := perdure._require_worker(worker);
begin
  perform perdure._require_read_committed();
  if v_worker.lost_at is not null then
    update perdure.worker as w set lost_at = null where w.id = v_worker.id;
  end if;
  if v_worker.mode = 'lease' then
    perform set_config('synchronous_commit', 'off', true);  -- a lost renewal is renewed
  end if;
  perform perdure._keep_alive(v_worker);
  -- it may have been given up while this waited
  return (perdure._require_worker(worker)).machine_id;
end
$$;

comment on function perdure.ping_worker(uuid) is
'A worker''s sign of life, to be given at least three times in its ttl: by the session that shows
its life (a new one takes over from one that was lost), or from any session in lease mode, in a
transaction of its own, for whose commit nobody waits. Returns its machine id. Raises QD007 (it was
given up: register anew), QD009 (another session of it lives), QD010.';
