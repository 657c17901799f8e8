-- A delay inside an outcome must not be able to fail the batch around it.

create or replace function perdure._delay_ms(p_delay jsonb) returns bigint
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_ms bigint;
begin
  if p_delay is null or p_delay = 'null' then
    return null;
  end if;
  v_ms := perdure._milliseconds(p_delay);
  return case when v_ms between 0 and 315360000000 then v_ms else -1 end;
exception
  when data_exception then
    return -1;
end
$$;

comment on function perdure._delay_ms(jsonb) is
'Whole milliseconds; null for none; -1 for what is no duration between 0 and ten years.';
