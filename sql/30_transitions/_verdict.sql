-- Why a lease is not held.

create or replace function perdure._verdict(p_id bigint, p_token int) returns text
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return case
    when exists (select from perdure.finished as f where f.id = p_id and f.token = p_token)
      or exists (select from perdure.attempt as a where a.execution_id = p_id and a.token = p_token)
      or exists (select from perdure.ready as r where r.id = p_id and r.token = p_token)
      or exists (select from perdure.scheduled as s where s.id = p_id and s.token = p_token)
      or exists (select from perdure.waiting as w where w.id = p_id and w.token = p_token)
      then 'already'
    when exists (select from perdure.finished as f where f.id = p_id and f.status = 'cancelled')
      then 'cancelled'
    else 'lost'
  end;
end
$$;

comment on function perdure._verdict(bigint, int) is
'already: this token''s outcome is recorded. cancelled: the execution was cancelled. lost: the lease
was taken away, or never was.';
