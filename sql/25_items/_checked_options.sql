-- Ranges of the optional fields, and which of them exclude one another. What was not given is null
-- and in no range, so it passes.

create or replace function perdure._checked_options(p perdure._item, p_now timestamptz)
returns perdure._item
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  c_day constant bigint := 86400000;
begin
  if p.code is not null then
    return p;
  elsif p.delay_ms not between 0 and 3650 * c_day then
    p.code := 'QD023';
    p.message := format('delay is out of range: %s ms', p.delay_ms);
  elsif p.timeout_ms not between 1 and 3650 * c_day then
    p.code := 'QD023';
    p.message := format('timeout is out of range: %s ms', p.timeout_ms);
  elsif p.retry_delay_ms not between 0 and c_day then
    p.code := 'QD023';
    p.message := format('retry_delay is out of range: %s ms', p.retry_delay_ms);
  elsif p.retry_max_delay_ms not between 0 and c_day then
    p.code := 'QD023';
    p.message := format('retry_max_delay is out of range: %s ms', p.retry_max_delay_ms);
  elsif p.retry_delay_ms > p.retry_max_delay_ms then
    p.code := 'QD023';
    p.message := 'retry_delay is longer than retry_max_delay';
  elsif p.max_attempts not between 1 and 1000 then
    p.code := 'QD024';
    p.message := format('max_attempts is 1 to 1000, got %s', p.max_attempts);
  elsif p.max_crashes not between 0 and 1000 then
    p.code := 'QD024';
    p.message := format('max_crashes is 0 to 1000, got %s', p.max_crashes);
  elsif p.priority not between -32768 and 32767 then
    p.code := 'QD026';
    p.message := format('priority is -32768 to 32767, got %s', p.priority);
  elsif not (p.retry_multiplier between 0.1 and 100) then
    p.code := 'QD026';
    p.message := format('retry_multiplier is 0.1 to 100, got %s', p.retry_multiplier);
  elsif not (p.retry_jitter between 0 and 1) then
    p.code := 'QD026';
    p.message := format('retry_jitter is 0 to 1, got %s', p.retry_jitter);
  elsif jsonb_typeof(p.headers) <> 'object' then
    p.code := 'QD021';
    p.message := 'headers have to be a JSON object';
  elsif p.delay_ms is not null and p.start_at is not null then
    p.code := 'QD026';
    p.message := 'delay and run_at exclude each other';
  elsif p.start_at > p_now + interval '3650 days' or p.start_at = '-infinity' then
    p.code := 'QD023';
    p.message := format('run_at is no moment within ten years: %s', p.start_at);
  elsif p.deadline_at = 'infinity' then
    p.code := 'QD023';
    p.message := 'the deadline is never: leave it out';
  elsif p.deadline_at <= p_now then
    p.code := 'QD025';
    p.message := format('the deadline is in the past: %s', p.deadline_at);
  elsif p.deadline_at <= coalesce(p.start_at, p_now + p.delay_ms * interval '1 millisecond') then
    p.code := 'QD025';
    p.message := format('the deadline is before the start: %s', p.deadline_at);
  elsif p.tags is not null then
    if exists (
      select from unnest(p.tags) as t (tag) where perdure._is_name(t.tag) is not true
    ) then
      p.code := 'QD020';
      p.message := 'a tag has 1 to 255 characters and no control characters';
    end if;
  end if;
  return p;
end
$$;

comment on function perdure._checked_options(perdure._item, timestamptz) is
'The same item, with code and message where an optional field is out of its range.';
