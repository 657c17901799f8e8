-- finish: running -> any
-- Completed, failed, timed_out, cancelled, ready, scheduled, or waiting.
-- Locks: the worker's row; its running rows; keys; last the parents' waiting rows, one at a time in
-- descending id.

create or replace function perdure.finish(worker uuid, outcomes jsonb)
returns table (id bigint, token int, result text, code text, message text)
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
  v_worker perdure.worker := perdure._enter(worker);
  v_results jsonb;
  v_tellings perdure._telling[];
  v_rest int;
begin
  select r.results, r.tellings, r.rest into v_results, v_tellings, v_rest
  from perdure._record(v_worker, coalesce(outcomes, '[]')) as r;
  if perdure._tell(v_tellings, true) + v_rest > 0 then
    perform perdure._notify_ready();
  end if;
  return query
  select
    case when o.value ->> 'id' ~ '^[0-9]{1,18}$' then (o.value ->> 'id')::bigint end,
    case when o.value ->> 'token' ~ '^[0-9]{1,9}$' then (o.value ->> 'token')::int end,
    coalesce(x.value ->> 'result', 'recorded'),
    x.value ->> 'code',
    x.value ->> 'message'
  from jsonb_array_elements(outcomes) with ordinality as o (value, n)
  left join lateral (  -- one answer each, also to outcomes that name the same lease, or none
    select r.value
    from jsonb_array_elements(v_results) as r
    where r.value -> 'id' = coalesce(o.value -> 'id', 'null')
      and r.value -> 'token' = coalesce(o.value -> 'token', 'null')
    limit 1
  ) as x on true
  order by o.n;
end
$$;

comment on function perdure.finish(uuid, jsonb) is
'Reports a JSON array of outcomes ({"id", "token", "outcome", …}: docs/reference/sql.md). One row
for each: recorded, already (this token''s outcome was recorded before), cancelled, lost (QD008: the
lease is not held), failed or invalid (the outcome was unacceptable, so the execution ended failed;
code and message say why). Raises QD007, QD010, QD028 (not an array).';
