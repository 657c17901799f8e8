-- A claim may narrow what the worker registered, never widen it: the sweeper sets rows aside by
-- what is registered.

create or replace function perdure._served(p_asked text[], p_registered text[], p_what text)
returns text[]
language plpgsql
immutable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p_asked is null or p_asked <@ p_registered or p_registered is null then
    return coalesce(p_asked, p_registered);
  end if;
  raise exception 'this worker did not register for % %', p_what,
    array(select a.name from unnest(p_asked) as a (name) where a.name <> all(p_registered))
    using errcode = 'QD026';
end
$$;

comment on function perdure._served(text[], text[], text) is
'The names asked for, or those registered when null. Raises QD026 for one that is not registered.';
