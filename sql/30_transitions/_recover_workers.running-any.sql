-- _recover_workers: running -> any
-- The leases of workers that died: ready, or failed (crashed).
-- Locks: worker rows, SKIP LOCKED (a worker that is busy reporting is not dead), then their running
-- rows. A worker is first marked as lost, and given up after a grace in which it may come back; the
-- row goes in the transaction that takes its last lease. Leases of workers that do not exist are
-- recovered too.

create or replace function perdure._recover_workers(
  p_max int, p_now timestamptz, out amount int, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_known int[] := array(select w.id from perdure.worker as w);
  v_live int[] := perdure._live_workers();  -- after v_known: who can be seen has taken its lock
  v_config perdure.config;
  v_gone int[];
  v_crashed record;
begin
  amount := 0;
  select c.* into v_config from perdure.config as c;
  update perdure.worker as w
  set lost_at = coalesce(
    -- a lease says itself when the life ended
    (select least(p_now, l.expires_at) from perdure.worker_lease as l where l.worker_id = w.id),
    p_now
  )
  where w.id = any(array(
    select x.id
    from perdure.worker as x
    where x.lost_at is null and x.id = any(v_known) and x.id <> all(v_live)
    for update skip locked
  ));
  update perdure.worker as w
  set lost_at = null
  where w.id = any(array(
    select x.id
    from perdure.worker as x
    where x.lost_at is not null and x.id = any(v_live)
    for update skip locked
  ));
  if clock_timestamp() < pg_postmaster_start_time() + v_config.restart_grace then
    return;  -- a restart took every lock: let the workers come back
  end if;
  v_gone := array(
    select w.id
    from perdure.worker as w
    where w.lost_at <= p_now - v_config.worker_grace and w.id <> all(v_live)
    for update skip locked
  );
  if cardinality(v_gone) > 0 then
    select c.* into v_crashed from perdure._crash(v_gone, p_max, p_now) as c;
    amount := v_crashed.amount;
    tellings := v_crashed.tellings;
    delete from perdure.worker as w
    where w.id = any(v_gone)
      and not exists (select from perdure.running as r where r.worker_id = w.id);
    delete from perdure.worker_lease as l
    where l.worker_id = any(v_gone)
      and not exists (select from perdure.worker as w where w.id = l.worker_id);
  end if;
  v_gone := array(
    select h.id
    from perdure._lease_holders() as h (id)
    where not exists (select from perdure.worker as w where w.id = h.id)
  );
  if cardinality(v_gone) > 0 then
    select c.* into v_crashed from perdure._crash(v_gone, p_max - amount, p_now) as c;
    amount := amount + v_crashed.amount;
    tellings := tellings || v_crashed.tellings;
  end if;
end
$$;

comment on function perdure._recover_workers(int, timestamptz) is
'Takes up to p_max leases from workers that are gone.';
