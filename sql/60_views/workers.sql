-- Who works, for people: an incarnation is a secret and not shown.

create or replace view perdure.workers as
select
  w.machine_id,
  w.name,
  w.id as worker_id,
  w.id = any((select perdure._live_workers())::int[]) as is_alive,
  w.is_healthy,
  w.mode,
  w.queues,
  w.tasks,
  (select count(*) from perdure.running as r where r.worker_id = w.id)::int as running,
  w.weight,
  w.ttl,
  w.registered_at,
  w.lost_at,
  l.expires_at,
  w.info
from perdure.worker as w
left join perdure.worker_lease as l on l.worker_id = w.id;

comment on view perdure.workers is
'Registered workers. is_alive: it shows a sign of life at this moment; one that does not is given
up, and its work recovered, by the next sweeps.';
comment on column perdure.workers.running is 'Executions that it has leased.';
