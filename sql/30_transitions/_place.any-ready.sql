-- _place: any -> ready
-- Out of another room, into ready, or into scheduled when due later.
-- Locks: none but the new rows; turns, SKIP LOCKED. The one way back to the line: retry, again,
-- release, recovery, redrive.

create or replace function perdure._place(p_rows perdure.scheduled[], p_now timestamptz)
returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  insert into perdure.scheduled
  select r.* from unnest(p_rows) as r where r.start_at > p_now;
  insert into perdure.ready (
    id, start_at, deadline_at, parent_id, parent_generation, token, attempts, crashes, iteration,
    bytes, priority, is_keyed, queue, task, input, shard, shard_key
  )
  select
    r.id, r.start_at, r.deadline_at, r.parent_id, r.parent_generation, r.token, r.attempts,
    r.crashes, r.iteration, r.bytes, r.priority, r.is_keyed, r.queue, r.task, r.input,
    case when r.shard_key is not null then perdure._shard_of(r.queue, r.shard_key) end, r.shard_key
  from unnest(p_rows) as r
  where r.start_at <= p_now;
  if exists (select from unnest(p_rows) as r where r.shard_key is not null) then
    perform perdure._let_pass(array(select r.id from unnest(p_rows) as r), p_now);
  end if;
end
$$;

comment on function perdure._place(perdure.scheduled[], timestamptz) is
'Puts executions into ready, or into scheduled where start_at is later than p_now.';
