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
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_worker perdure.worker;
  v_queues text[];
  v_tasks text[];
  v_results jsonb;
  v_tellings perdure._telling[];
  v_made int := 0;
  v_rest int;
  v_next bigint[];
  v_is_due boolean := false;
begin
  if outcomes in ('[]', 'null') then
    outcomes := null;
  end if;
  select w.* into v_worker from perdure.worker as w where w.incarnation = exchange.worker;
  v_queues := perdure._served(queues, v_worker.queues, 'queue');
  v_tasks := perdure._served(tasks, v_worker.tasks, 'task');
  if v_worker.id is null or outcomes is not null or call < v_worker.least_call
    or (want > 0 and perdure._has_due(v_queues, v_worker.id))
  then
    v_worker := perdure._enter(worker, call);
    if outcomes is not null then
      select r.results, r.tellings, r.rest, r.next into v_results, v_tellings, v_rest, v_next
      from perdure._record(v_worker, outcomes) as r;
      results := v_results;
    end if;
    if want > 0 then
      -- the claim moves these into their lines, whosever queues they belong to
      v_is_due := exists (
        select from perdure.scheduled as s where s.start_at <= (select perdure._clock())
      );
      select
        json_agg(json_build_array(
          c.id, c.token, c.task, c.attempt, c.input, c.timeout_ms, c.extra
        )) filter (where c.id is not null),
        jsonb_object_agg(c.queue, jsonb_build_array(c.priority, c.start_at, c.id))
          filter (where c.is_last),
        -- fewer than wanted: the head of the line was not looked at, the byte budget was used up,
        -- or there is more in its shards
        count(c.id) < want and (after is not null or sum(c.bytes) >= (
          select g.claim_bytes from perdure.config as g
        )) or count(*) > count(c.id)
      into claimed, next_after, more
      from perdure._claim(v_worker, v_queues, v_tasks, want, after) as c;
    end if;
    v_made := perdure._tell(v_tellings, true);
  end if;
  if cardinality(held) > 0 then
    gone := array(
      select unnest(held)
      except
      select r.id from perdure.running as r where r.id = any(held) and r.worker_id = v_worker.id
    );
  end if;
  select least(
    2147483647,
    greatest(0, ceil(extract(epoch from s.start_at - perdure._clock()) * 1000))
  )
  into wait_ms
  from perdure.scheduled as s
  order by s.start_at, s.id
  limit 1;
  more := v_made > 0 or coalesce(more, false);
  v_is_due := v_is_due or v_made + coalesce(v_rest, 0) > 0;
  wake := v_is_due and (
    -- ordered, so that no other index is read past rows that are set aside or held
    select r.id
    from perdure.ready as r
    where not r.is_aside and r.shard is null
    order by r.queue, r.priority, r.start_at, r.id
    limit 1
  ) is not null or v_is_due and (
    select r.id
    from perdure.ready as r
    where r.shard is not null and not r.is_held and not r.is_aside
    order by r.queue, r.shard, r.id
    limit 1
  ) is not null or v_next is not null and exists (
    select from perdure.ready as r where r.id = any(v_next)
  );
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
