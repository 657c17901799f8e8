-- The worker of an incarnation, as it stands; nothing is locked.

create or replace function perdure._require_worker(p_worker uuid) returns perdure.worker
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_worker perdure.worker;
begin
  select w.* into v_worker from perdure.worker as w where w.incarnation = p_worker;
  if v_worker.id is null then
    raise exception 'this worker is not registered, or its work was taken away'
      using errcode = 'QD007', hint = 'Register anew with perdure.register_worker.';
  end if;
  return v_worker;
end
$$;

comment on function perdure._require_worker(uuid) is 'The worker''s row. Raises QD007.';
