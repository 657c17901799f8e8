-- wake: sleeping -> any
-- Completed, or failed with the given error.
-- Locks: the sleeper's waiting row; last its ancestors' waiting rows upwards. Idempotent: a second
-- call finds the outcome and returns it unchanged.

create or replace function perdure.wake(
  task text, key text, output jsonb default null, error jsonb default null,
  key_scope text default null
) returns perdure.woken
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_limit int := (select c.payload_limit from perdure.config as c);
  v_scope text := coalesce(wake.key_scope, wake.task);
  v_id bigint;
  v_live_id bigint;
  v_sleeper perdure.waiting;
  v_telling perdure._telling;
begin
  perform perdure._require_read_committed();
  if perdure._exceeds(wake.output, v_limit) then
    raise exception 'the output exceeds the limit of % bytes', v_limit using errcode = 'QD022';
  end if;
  -- the live holder of the key, else the youngest that had it
  select e.id into v_id
  from perdure.execution as e
  where e.key_scope = v_scope and e.key = wake.key and e.task = wake.task
  order by e.key_scope desc, e.key desc, e.id desc
  limit 1;
  if v_id is null then
    raise exception 'no execution of % ever had the key %', wake.task, wake.key
      using errcode = 'QD002';
  end if;
  v_live_id := (
    select k.id
    from perdure.key as k
    where k.scope = v_scope and k.key = wake.key and k.until is null
  );
  if not exists (select from perdure.finished as f where f.id = v_live_id)
    and exists (select from perdure.execution as e where e.id = v_live_id and e.task = wake.task)
  then
    v_id := v_live_id;
  end if;
  select w.* into v_sleeper
  from perdure.waiting as w
  where w.id = v_id and w.phase = 'sleep'
  for update;
  if v_sleeper.id is not null then
    v_telling := perdure._end_parent(
      v_sleeper,
      case when coalesce(wake.error, 'null') = 'null' then 'completed' else 'failed' end,
      nullif(wake.output, 'null'),
      case
        when coalesce(wake.error, 'null') <> 'null'
          then perdure._error(wake.error, 'failed', 'woken with an error', false, v_limit)
      end,
      v_now
    );
    if v_telling.parent_id is not null and perdure._tell(array[v_telling], true) > 0 then
      perform perdure._notify_ready();
    end if;
  elsif not exists (select from perdure.finished as f where f.id = v_id) then
    raise exception 'execution % with the key % does not sleep', v_id, wake.key
      using errcode = 'QD004';
  end if;
  return (
    select row(f.id, f.status, f.output, f.error, v_sleeper.id is not null)::perdure.woken
    from perdure.finished as f
    where f.id = v_id
  );
end
$$;

comment on function perdure.wake(text, text, jsonb, jsonb, text) is
'Wakes the sleeping execution of `task` that has this key: it completes with `output`, or fails with
`error` when one is given. Where it ended before, its outcome is returned unchanged (is_woken
false). Raises QD002 (no such key), QD004 (its execution is not a sleeper), QD010, QD022.';
