-- Whose the shards are, for people.

create or replace view perdure.shards as
select
  s.queue,
  s.number,
  w.machine_id,
  w.name,
  s.worker_id,
  s.epoch,
  s.acquired_at,
  n.id as next_id
from perdure.shard as s
left join perdure.worker as w on w.id = s.worker_id
left join lateral (
  select r.id
  from perdure.ready as r
  where
    r.queue = s.queue
    and r.shard >= s.number  -- a range of one, as in _look
    and r.shard <= s.number
    and not r.is_held
    and not r.is_aside
  order by r.shard, r.id
  limit 1
) as n on true;

comment on view perdure.shards is
'The shards of sharded queues, from 0, and the worker that owns each: no machine_id where it has
none, or one that was given up. shard_assignment() says whose they should be.';
comment on column perdure.shards.next_id is 'The execution that stands first in its line.';
