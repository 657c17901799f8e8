-- Stored errors have one shape, whatever a worker sent: {type, message, retryable} and more,
-- bounded.

create or replace function perdure._error(
  p_given jsonb, p_type text, p_message text, p_is_retryable boolean, p_limit int
) returns jsonb
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  return case
    when perdure._exceeds(p_given, p_limit) then jsonb_build_object(
      'type', coalesce(left(p_given ->> 'type', 255), p_type),
      'message', left(coalesce(p_given ->> 'message', p_message), 10000),
      'retryable', coalesce(p_given -> 'retryable' = 'true', p_is_retryable),
      'truncated', true
    )
    else
      jsonb_build_object('type', p_type, 'message', p_message, 'retryable', p_is_retryable)
      || case jsonb_typeof(p_given)
        when 'object' then p_given
        when 'string' then jsonb_build_object('message', p_given)
        else '{}'
      end
  end;
end
$$;

comment on function perdure._error(jsonb, text, text, boolean, int) is
'The error to store: what was given (an object, or a message), completed by the defaults; cut to
10,000 characters of message when it has more than p_limit bytes.';
