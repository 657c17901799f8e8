-- A transition counts on seeing what was committed before each of its statements. Under a longer
-- snapshot its guards would read the past (or fail half-way with 40001), so it refuses at once.

create or replace function perdure._require_read_committed() returns void
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception 'a transition needs isolation level read committed, this transaction has %',
      current_setting('transaction_isolation')
      using errcode = 'QD010',
        hint = 'Call it in a transaction of its own; enqueue and reading run at any level.';
  end if;
end
$$;

comment on function perdure._require_read_committed() is
'Raises QD010 unless the transaction is read committed.';
