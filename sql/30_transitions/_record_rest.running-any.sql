-- _record_rest: running -> any
-- What is not plainly completed, item by item: the leases are already taken.
-- An unacceptable item ends its own execution and nothing else.

create or replace function perdure._record_rest(
  p_rows perdure.running[], p_outcomes jsonb[], p_now timestamptz, p_limit int,
  out results jsonb, out tellings perdure._telling[]
)
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_row perdure.running;
  v_outcome jsonb;
  v_kind text;
  v_delay bigint;
  v_code text;
  v_reason text;
  v_spawn_tellings perdure._telling[];
  v_back perdure.running[] := '{}';
  v_again perdure.running[] := '{}';
  v_delays_again bigint[] := '{}';
  v_unsettled perdure.running[] := '{}';
  v_statuses text[] := '{}';
  v_errors jsonb[] := '{}';
  v_delays bigint[] := '{}';
begin
  results := '[]';
  for v_at in 1 .. cardinality(p_rows) loop
    v_row := p_rows[v_at];
    v_outcome := p_outcomes[v_at];
    v_kind := v_outcome ->> 'outcome';
    v_delay := perdure._delay_ms(v_outcome -> 'delay');
    v_code := null;
    case
      when v_kind = 'released' then
        v_back := v_back || v_row;
      when v_kind in ('failed', 'timed_out', 'cancelled') and v_delay is distinct from -1 then
        v_unsettled := v_unsettled || v_row;
        v_statuses := v_statuses || v_kind;
        v_delays := v_delays || v_delay;
        v_errors := v_errors || perdure._error(
          v_outcome -> 'error', v_kind,
          case v_kind
            when 'failed' then 'the body failed'
            when 'timed_out' then 'the attempt timed out'
            else 'the body cancelled its execution'
          end,
          v_kind <> 'cancelled', p_limit
        );
      when v_kind = 'completed' then
        v_code := 'QD022';
        v_reason := format('the output exceeds the limit of %s bytes', p_limit);
      when v_delay = -1 then
        v_code := 'QD028';
        v_reason := 'delay is no duration between 0 and ten years';
      when v_kind = 'again' and perdure._exceeds(v_outcome -> 'input', p_limit) then
        v_code := 'QD022';
        v_reason := format('the input for `again` exceeds the limit of %s bytes', p_limit);
      when v_kind = 'again' then
        v_row.input := coalesce(v_outcome -> 'input', v_row.input);
        v_again := v_again || v_row;
        v_delays_again := v_delays_again || coalesce(v_delay, 0);
      when v_kind = 'spawned' then
        select s.code, s.message, s.tellings into v_code, v_reason, v_spawn_tellings
        from perdure._park(v_row, v_outcome, p_now, p_limit) as s;
        tellings := tellings || v_spawn_tellings;
      else
        v_code := 'QD028';
        v_reason := format('unknown outcome %s', coalesce(left(v_kind, 80), 'null'));
    end case;
    if v_code is not null then
      v_unsettled := v_unsettled || v_row;
      v_statuses := v_statuses || 'failed'::text;
      v_delays := v_delays || null::bigint;
      v_errors := v_errors || jsonb_build_object(
        'type', case v_code
          when 'QD022' then 'payload_too_large'
          when 'QD028' then 'invalid_outcome'
          else 'invalid_child'
        end,
        'code', v_code, 'message', v_reason, 'retryable', false
      );
      results := results || jsonb_build_object(
        'id', v_row.id, 'token', v_row.token,
        'result', case v_code when 'QD028' then 'invalid' else 'failed' end,
        'code', v_code, 'message', v_reason
      );
    end if;
  end loop;
  perform perdure._hand_back(v_back, 0, p_now);
  perform perdure._repeat(v_again, v_delays_again, p_now);
  if cardinality(v_unsettled) > 0 then
    tellings := tellings
      || perdure._settle(v_unsettled, v_statuses, v_errors, v_delays, 0, p_now);
  end if;
  results := nullif(results, '[]');
end
$$;

comment on function perdure._record_rest(perdure.running[], jsonb[], timestamptz, int) is
'Applies outcomes other than an acceptable `completed` to leases that were just taken; parallel
arrays.';
