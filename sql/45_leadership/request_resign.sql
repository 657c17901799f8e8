-- request_resign: ask the holder to let the next one in
-- Locks: the rows of leader of those that hold a lease, who are told when they renew it.

create or replace function perdure.request_resign(channels text[], purpose text default 'lock')
returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  perform perdure._require_read_committed();
  perform perdure._require_channels(channels, request_resign.purpose);
  perform perdure._tell_channels('resign_please', request_resign.purpose, channels);
  update perdure.leader as l
  set is_unwanted = true
  where l.purpose = request_resign.purpose and l.channel = any(channels) and l.mode = 'lease'
    and not l.is_unwanted;
  return (
    select count(*)
    from perdure.leaders as l
    where l.purpose = request_resign.purpose and l.channel = any(channels) and l.is_held
  );
end
$$;

comment on function perdure.request_resign(text[], text) is
'Asks whoever leads these channels to resign; nothing is forced. Returns how many are held. Raises
QD010, QD020, QD026.';
