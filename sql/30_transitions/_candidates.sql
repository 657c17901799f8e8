-- The head of one queue, locked: rows of ready in order, SKIP LOCKED, up to a number and to a byte
-- budget (but at least one).
-- Behind a cursor a row that somebody else has locked is passed by its xmax: to try its lock costs
-- much more, and among many workers most rows there are being claimed. One that was left after all
-- is found by the next look from the beginning. (Who brought a row back locked it, too: an update
-- keeps that number, which is then that of the row's own transaction.)

create or replace function perdure._candidates(
  p_queue text, p_tasks text[], p_max int, p_budget bigint, p_after jsonb,
  out ids bigint[], out bytes bigint
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_priority smallint := coalesce((p_after ->> 0)::smallint, -32768);
  v_start timestamptz := coalesce((p_after ->> 1)::timestamptz, '-infinity');
  v_id bigint := coalesce((p_after ->> 2)::bigint, 0);
begin
  select
    coalesce(array_agg(c.id), '{}'),  -- in the order in which they come
    coalesce(sum(c.bytes), 0)
  into ids, bytes
  from (
    select r.id, r.bytes
    from perdure.ready as r
    where r.queue = p_queue
      and not r.is_aside
      and r.shard is null
      and (r.priority, r.start_at, r.id) > (v_priority, v_start, v_id)
      and (p_tasks is null or r.task = any(p_tasks))
      and (p_after is null or r.xmax in ('0', r.xmin))
    order by r.priority, r.start_at, r.id
    limit p_max
    for update skip locked
  ) as c;
  if bytes > p_budget then  -- only as many as fit into it
    select array_agg(s.id order by s.priority, s.start_at, s.id), sum(s.bytes) into ids, bytes
    from (
      select r.id, r.priority, r.start_at, r.bytes,
        sum(r.bytes) over (order by r.priority, r.start_at, r.id) - r.bytes as before
      from perdure.ready as r
      where r.id = any(ids)
    ) as s
    where s.before < p_budget;
  end if;
end
$$;

comment on function perdure._candidates(text, text[], int, bigint, jsonb) is
'Ids at the head of a queue for tasks that the caller knows (null: all), locked for a claim.';
