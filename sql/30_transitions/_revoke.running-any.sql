-- _revoke: running -> any
-- Leases that were taken away: their attempt is recorded, and they go on or end.
-- Locks: none but new rows.

create or replace function perdure._revoke(
  p_rows perdure.running[], p_status text, p_message text, p_now timestamptz
) returns perdure._telling[]
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_amount int := coalesce(cardinality(p_rows), 0);
begin
  return case
    when v_amount > 0 then perdure._settle(
      p_rows,
      array_fill(p_status, array[v_amount]),
      array_fill(
        jsonb_build_object(
          'type', p_status, 'message', p_message, 'retryable', p_status <> 'crashed'
        ), array[v_amount]
      ),
      array_fill(null::bigint, array[v_amount]),
      1, p_now
    )
  end;
end
$$;

comment on function perdure._revoke(perdure.running[], text, text, timestamptz) is
'Settles leases taken from their workers as crashed or timed_out; returns what has to be told.';
