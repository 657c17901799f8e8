-- Arguments that all functions of leadership share.

create or replace function perdure._require_channels(p_channels text[], p_purpose text)
returns void
language plpgsql
immutable
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p_channels is null
    or exists (
      select from unnest(p_channels) as c (name) where perdure._is_name(c.name) is not true
    )
  then
    raise exception 'channels are names of 1 to 255 characters without control characters'
      using errcode = 'QD020';
  elsif p_purpose is null or p_purpose not in ('lock', 'sweep') then
    raise exception 'a purpose is lock or sweep, got %', coalesce(p_purpose, 'null')
      using errcode = 'QD026';
  end if;
end
$$;

comment on function perdure._require_channels(text[], text) is
'Raises QD020 unless all channels are names, QD026 for an unknown purpose.';
