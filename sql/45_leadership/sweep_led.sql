-- sweep_led: one bounded pass by the resident leader of channels
-- Locks: their rows of leader, FOR KEY SHARE, in order of the channels: nobody else is elected
-- until the pass is committed; then as _sweep. Where nothing is due, nothing is locked.

create or replace function perdure.sweep_led(
  channels text[], holder uuid, epochs bigint[], max int default 1000,
  out promoted int, out recovered int, out timed_out int, out closed int, out moved int,
  out forgotten int, out more boolean, out deleted int, out skipped text, out lost text[]
)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_max int := coalesce(sweep_led.max, 1000);
  v_led text[];
  v_locked text[] := '{}';
  v_given record;
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  perform perdure._require_channels(channels, 'sweep');
  v_led := array(
    select l.channel
    from unnest(channels, epochs) as g (channel, epoch)
    join perdure.leader as l
      on l.purpose = 'sweep' and l.channel = g.channel and l.epoch = g.epoch
      and l.holder = sweep_led.holder
  );
  if cardinality(v_led) > 0 and not perdure._is_due(v_led, perdure._clock()) then
    v_max := 0;
  else
    for v_given in
      select g.channel, g.epoch from unnest(channels, epochs) as g (channel, epoch) order by 1
    loop
      perform
      from perdure.leader as l
      where l.purpose = 'sweep' and l.channel = v_given.channel and l.epoch = v_given.epoch
        and l.holder = sweep_led.holder
      for key share;
      if found then
        v_locked := v_locked || v_given.channel;
      end if;
    end loop;
    v_led := v_locked;
  end if;
  if cardinality(v_led) = 0 then
    raise exception 'this leadership of % is over', array_to_string(channels, ', ')
      using errcode = 'QD013', detail = 'FENCED',
        hint = 'Another leads. Stand for election again.';
  end if;
  lost := array(
    select c.name
    from unnest(channels) with ordinality as c (name, n)
    where c.name <> all(v_led)
    order by c.n
  );
  select s.promoted, s.recovered, s.timed_out, s.closed, s.moved, s.forgotten, s.more, s.deleted
  into promoted, recovered, timed_out, closed, moved, forgotten, more, deleted
  from perdure._sweep(v_led, v_max) as s;
  skipped := null;  -- a column that sweep() has
end
$$;

comment on function perdure.sweep_led(text[], uuid, bigint[], int) is
'What sweep() does, by the leader of these channels under these epochs (parallel to channels), as
elect() with purpose sweep gave them. Nothing is written or locked where nothing is due. lost: the
channels whose leadership is over; skipped: always null. Raises QD010, QD013 (it leads none of them
any more), QD016, QD020.';
