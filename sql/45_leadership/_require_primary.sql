-- A hot standby has no locks in common with its primary and cannot write: nobody leads there.

create or replace function perdure._require_primary() returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if pg_is_in_recovery() then
    raise exception 'this server is a hot standby: it can be read, but nobody can lead or work here'
      using errcode = 'QD016', hint = 'Connect to the primary: target_session_attrs=read-write.';
  end if;
end
$$;

comment on function perdure._require_primary() is 'Raises QD016 on a hot standby.';
