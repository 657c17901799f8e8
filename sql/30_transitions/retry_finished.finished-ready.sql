-- retry_finished: finished -> ready
-- Every end; a sleeper sleeps again.
-- Locks: the row in finished; its key; last its parent's waiting row upwards. The old outcome goes
-- to attempt. The execution belongs to its parent again only if that one still waits for this very
-- generation; otherwise it is refused, or runs on its own when `detach` is given.

create or replace function perdure.retry_finished(id bigint, detach boolean default false)
returns bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
  v_now timestamptz := perdure._clock();
  v_fact perdure.execution;
  v_old perdure.finished;
  v_parent_id bigint;
  v_deadline timestamptz;
begin
  perform perdure._require_read_committed();
  select e.* into v_fact from perdure.execution as e where e.id = retry_finished.id;
  if v_fact.id is null then
    raise exception 'there is no execution %', retry_finished.id using errcode = 'QD001';
  elsif exists (
    select from perdure.closing as c where c.execution_id = retry_finished.id
  ) then
    raise exception 'execution % is still closing', retry_finished.id
      using errcode = 'QD012', hint = 'Call perdure.close_batch(), or try again in a second.';
  end if;
  delete from perdure.finished as f where f.id = retry_finished.id returning f.* into v_old;
  if v_old.id is null then
    raise exception 'execution % has not finished', retry_finished.id using errcode = 'QD006';
  end if;
  if v_fact.shard_key is not null and perdure._shards_of(v_fact.queue) is null then
    raise exception 'queue % of execution % is not sharded any more', v_fact.queue, v_fact.id
      using errcode = 'QD026', hint = 'Call perdure.shard_queue first.';
  end if;
  perform perdure._retake_key(v_fact, v_now);
  v_parent_id := perdure._rejoin(v_fact, detach);
  insert into perdure.attempt (
    execution_id, token, attempt, worker_id, started_at, ended_at, status, error, output
  )
  values (
    v_old.id, v_old.token, v_old.attempts, v_old.worker_id, v_old.started_at, v_old.finished_at,
    v_old.status, v_old.error, v_old.output
  );
  v_deadline := case when v_fact.deadline_at > v_now then v_fact.deadline_at end;
  if v_fact.is_sleeping then
    insert into perdure.waiting (
      id, since, started_at, deadline_at, parent_id, parent_generation, generation, active, token,
      attempts, crashes, iteration, is_keyed, phase, task
    )
    values (
      v_fact.id, v_now, v_now, v_deadline, v_parent_id,
      case when v_parent_id is not null then v_fact.parent_generation end, 0, 0, v_old.token + 1,
      0, 0, 0, true, 'sleep', v_fact.task
    );
  else
    perform perdure._place(array[row(
      v_fact.id, v_now, v_deadline, v_parent_id,
      case when v_parent_id is not null then v_fact.parent_generation end, v_old.token + 1, 0, 0, 0,
      pg_column_size(v_fact.input), v_fact.priority,
      v_fact.key is not null or v_fact.shard_key is not null, v_fact.queue, v_fact.task, null,
      v_fact.shard_key
    )::perdure.scheduled], v_now);
    perform perdure._notify_ready(array[v_fact.queue], 1);
  end if;
  insert into perdure.deadline (id, at)
  select v_fact.id, d.at
  from (
    select least(
      v_deadline,
      case when v_fact.is_sleeping then v_now + v_fact.timeout_ms * interval '1 millisecond' end
    ) as at
  ) as d
  where d.at is not null;
  return v_fact.id;
end
$$;

comment on function perdure.retry_finished(bigint, boolean) is
'Runs an ended execution anew: attempts and crashes start at 0, the old outcome is kept in attempt.
A parent runs its body again and may spawn anew. Raises QD001, QD003 (its key was taken), QD005 (its
parent has ended or moved on: `detach` lets a child run without it; a finalize cannot), QD006 (it
has not finished), QD010, QD012 (its tree is still being told), QD026 (its queue
is not sharded any more).';
