-- cancel: any -> cancelled
-- Ready, scheduled, running, sleeping or waiting, and the whole live subtree at once.
-- Locks: the execution's room row, then its descendants' (SKIP LOCKED), last its ancestors' waiting
-- rows upwards. The worker of a body that runs is notified, and learns of it by an exchange.

create or replace function perdure.cancel(id bigint, reason text default null) returns text
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_now timestamptz := perdure._clock();
  v_end record;
begin
  perform perdure._require_read_committed();
  if not exists (select from perdure.execution as e where e.id = cancel.id) then
    raise exception 'there is no execution %', cancel.id using errcode = 'QD001';
  end if;
  select e.* into v_end
  from perdure._end(
    cancel.id, 'cancelled',
    jsonb_build_object(
      'type', 'cancelled', 'retryable', false,
      'message', coalesce(left(cancel.reason, 10000), 'the execution was cancelled')
    ),
    v_now
  ) as e;
  perform perdure._tell(v_end.tellings, true);
  if v_end.result <> 'finished' then
    perform perdure._notify('{"event": "gone"}');
  end if;
  return v_end.result;
end
$$;

comment on function perdure.cancel(bigint, text) is
'Cancels an execution with all its live descendants: up to config.cancel_limit in this transaction,
the rest by close_batch(), and none of them is claimed any more. Returns cancelled, finished (it had
ended already: nothing changed) or pending (it kept moving: close_batch() ends it). Raises QD001,
QD010.';
