-- exchange: running -> any
-- And ready -> running: finish and claim in one round trip and one commit.
-- Locks: the worker's row; its running rows; rows of ready, SKIP LOCKED; last the parents' waiting
-- rows, one at a time in descending id. An exchange that finds nothing to do writes nothing. It
-- never notifies: that would serialise all commits. It says that others should be woken (`wake`).

create or replace function perdure.exchange(
  worker uuid,
  outcomes jsonb default null,
  want int default 0,
  queues text[] default null,
  tasks text[] default null,
  held bigint[] default null,
  call bigint default null,
  after jsonb default null,
  out results json,
  out claimed json,
  out gone bigint[],
  out more boolean,
  out wait_ms int,
  out next_after jsonb,
  out wake boolean
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_worker perdure.worker;
  v_queues text[];
  v_tasks text[];
  v_recorded record;
  v_claim record;
  v_made int := 0;
  v_next bigint[];  -- who came into the line behind the same shard keys
  v_due_at timestamptz;
  v_is_due boolean;
begin
  if outcomes in ('[]', 'null') then
    outcomes := null;
  end if;
  if outcomes is not null then
    v_worker := perdure._enter(worker, call);
    v_recorded := perdure._record(v_worker, outcomes);
    results := v_recorded.results;
    v_next := v_recorded.next;
  else
    select w.* into v_worker from perdure.worker as w where w.incarnation = exchange.worker;
  end if;
  v_queues := v_worker.queues;
  v_tasks := v_worker.tasks;
  if num_nonnulls(queues, tasks) > 0 then
    v_queues := perdure._served(queues, v_queues, 'queue');
    v_tasks := perdure._served(tasks, v_tasks, 'task');
  end if;
  if outcomes is null then
    if v_worker.id is not null and call < v_worker.least_call is not true
      and (want > 0 and perdure._has_due(v_queues, v_worker.id)) is not true
    then
      want := 0;  -- nothing is written, not even a lock
    else
      v_worker := perdure._enter(worker, call);
    end if;
  end if;
  v_due_at := (select s.start_at from perdure.scheduled as s order by s.start_at limit 1);
  v_is_due := want > 0 and coalesce(v_due_at <= perdure._clock(), false);
  if v_is_due then
    perform perdure._promote(perdure._clock(), greatest(want, 1000));
    v_due_at := (select s.start_at from perdure.scheduled as s order by s.start_at limit 1);
  end if;
  if want > 0 then
    v_claim := perdure._claim(v_worker, v_queues, v_tasks, want, after);
    claimed := v_claim.claimed;
    next_after := v_claim.next_after;
    more := v_claim.more;
  end if;
  if outcomes is not null then
    if v_recorded.tellings is not null then
      v_made := perdure._tell(v_recorded.tellings, true);
    end if;
    -- what was promoted, or came of the outcomes, may stand in anybody's line
    v_is_due := v_is_due or v_made + v_recorded.rest > 0;
  end if;
  if cardinality(held) > 0 then
    gone := array(
      select unnest(held)
      except
      select r.id from perdure.running as r where r.id = any(held) and r.worker_id + 0 = v_worker.id
    );
  end if;
  if v_due_at is not null then
    wait_ms := least(
      2147483647, greatest(0, ceil(extract(epoch from v_due_at - perdure._clock()) * 1000))
    );
  end if;
  more := v_made > 0 or coalesce(more, false);
  wake := v_is_due and perdure._is_in_line()
    or v_next is not null and exists (select from perdure.ready as r where r.id = any(v_next));
end
$$;

comment on function perdure.exchange(
  uuid, jsonb, int, text[], text[], bigint[], bigint, jsonb
) is
'What a worker says and asks in one round trip: reports outcomes, claims up to `want`, and learns
which of the ids in `held` it no longer holds (`gone`). results: the outcomes that were not plainly
recorded. claimed: arrays [id, token, task, attempt, input, timeout_ms, extra]. more: ask again at
once. wake: others may claim what came of the outcomes or fell due, so call notify_ready(). wait_ms:
until the next scheduled execution is due. next_after: where the claim ended, to be given back as
`after`. call: numbers upwards; one below that of the last resume is refused (QD009). Raises QD007,
QD009, QD010, QD026, QD028.';
