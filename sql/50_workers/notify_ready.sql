-- notify_ready: wake idle workers, in a transaction that nobody waits for
-- An exchange never notifies in its own commit; it says `wake`, and its worker calls this.

create or replace function perdure.notify_ready(queues text[] default null) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  perform perdure._require_read_committed();
  perform set_config('synchronous_commit', 'off', true);  -- a lost one is made up for by polling
  perform perdure._notify_ready(queues);
end
$$;

comment on function perdure.notify_ready(text[]) is
'Wakes the idle workers of these queues (null: all); for use after enqueue with `notify => false`,
in a transaction of its own. Raises QD010.';
