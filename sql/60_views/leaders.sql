-- Who leads what, for people.

create or replace view perdure.leaders as
select
  l.purpose,
  l.channel,
  l.mode,
  coalesce(
    case l.mode
      -- by the process that was elected: one that is just being elected has the lock already
      when 'session' then -l.lock_key = any(perdure._locked_keys(l.backend))
      when 'lease' then l.expires_at > (select perdure._clock())
    end,
    false
  ) as is_held,
  l.name,
  l.epoch,
  l.acquired_at,
  l.expires_at,
  l.backend
from perdure.leader as l;

comment on view perdure.leaders is
'Channels with their last holder. is_held: whether that one is alive; false where it died, resigned,
or was a one-shot sweep. The holder''s secret is not shown.';
