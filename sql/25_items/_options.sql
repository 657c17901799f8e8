-- The fields of an item but for its input, read one by one: whatever is wrong with one is said of
-- that item alone, so a batch never fails for a single bad item. Hence the only exception handler
-- of the enqueue path. A run of items with the same fields comes here once.

create or replace function perdure._options(p_item jsonb, p_now timestamptz) returns perdure._item
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  c_longest constant bigint := 1e15;  -- so that the end of any execution can be followed by it
  v perdure._item;
  v_field text;
  v_value jsonb;
  v_text text;
begin
  v.task := case jsonb_typeof(p_item -> 'task') when 'string' then p_item ->> 'task' end;
  for v_field, v_value in select f.key, f.value from jsonb_each(p_item) as f loop
    continue when v_field in ('task', 'input') or v_value = 'null';
    v_text := v_value #>> '{}';
    if v_field in ('queue', 'key', 'key_scope', 'key_for', 'shard_key', 'retry_backoff') then
      if jsonb_typeof(v_value) <> 'string' then
        v.code := 'QD021';
        v.message := format('%s has to be a string, got %s', v_field, left(v_text, 80));
        return v;
      end if;
    elsif v_field in ('delay', 'timeout', 'retry_delay', 'retry_max_delay', 'run_at', 'deadline')
      and jsonb_typeof(v_value) not in ('number', 'string')
    then
      v.code := 'QD021';
      v.message := format('%s has to be a number of seconds or a string', v_field);
      return v;
    end if;
    case v_field
      when 'queue' then v.queue := v_text;
      when 'key' then v.key := v_text;
      when 'key_scope' then v.key_scope := v_text;
      when 'shard_key' then v.shard_key := v_text;
      when 'key_for' then
        v.is_kept_ever := v_text = 'ever';
        v.keep_ms := case
          when v_text not in ('live', 'ever') then perdure._milliseconds(v_value) else 0
        end;
        if v.keep_ms not between 0 and c_longest then
          v.code := 'QD023';
          v.message := format('key_for is live, ever or an interval, got %s', v_text);
          return v;
        end if;
      when 'retry_backoff' then
        v.is_linear := v_text = 'linear';
        if v_text not in ('linear', 'exponential') then
          v.code := 'QD026';
          v.message := format('retry_backoff is exponential or linear, got %s', left(v_text, 80));
          return v;
        end if;
      when 'delay' then v.delay_ms := perdure._milliseconds(v_value);
      when 'timeout' then v.timeout_ms := perdure._milliseconds(v_value);
      when 'retry_delay' then v.retry_delay_ms := perdure._milliseconds(v_value);
      when 'retry_max_delay' then v.retry_max_delay_ms := perdure._milliseconds(v_value);
      when 'run_at' then v.start_at := perdure._moment(v_value, p_now);
      when 'deadline' then v.deadline_at := perdure._moment(v_value, p_now);
      when 'priority' then v.priority := v_text::int;
      when 'max_attempts' then v.max_attempts := v_text::int;
      when 'max_crashes' then v.max_crashes := v_text::int;
      when 'retry_multiplier' then v.retry_multiplier := v_text::double precision;
      when 'retry_jitter' then v.retry_jitter := v_text::double precision;
      when 'sleeping' then v.is_sleeping := v_text::boolean;
      when 'headers' then v.headers := v_value;
      when 'tags' then
        v.tags := array(select t.tag from jsonb_array_elements_text(v_value) as t (tag));
      else
        v.code := 'QD026';
        v.message := format('unknown field %s', left(v_field, 80));
        return v;
    end case;
  end loop;
  return perdure._checked_options(v, p_now);
exception
  when data_exception then
    v.code := case
      when v_field in ('delay', 'timeout', 'retry_delay', 'retry_max_delay', 'key_for') then 'QD023'
      when v_field in ('max_attempts', 'max_crashes') then 'QD024'
      when v_field in ('priority', 'retry_multiplier', 'retry_jitter') then 'QD026'
      else 'QD021'
    end;
    v.message := format('%s is not acceptable: %s', v_field, left(v_text, 80));
    return v;
end
$$;

comment on function perdure._options(jsonb, timestamptz) is
'The fields of an item but for its input, typed; null where not given; code and message where one is
refused.';
