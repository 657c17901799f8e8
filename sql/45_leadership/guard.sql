-- guard: the first statement of whatever only a leader may do
-- Locks: the row of leader, FOR KEY SHARE: nobody is elected until the transaction ends; a lease is
-- renewed all the same. A guard under a longer snapshot fails with 40001 rather than believe it.

create or replace function perdure.guard(
  channel text, holder uuid, epoch bigint, purpose text default 'lock'
) returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  perform
  from perdure.leader as l
  where l.purpose = guard.purpose and l.channel = guard.channel and l.holder = guard.holder
    and l.epoch = guard.epoch
  for key share;
  if not found then
    raise exception 'epoch % of channel % is over', guard.epoch, guard.channel
      using errcode = 'QD013', detail = 'FENCED',
        hint = 'Another leads. Stop what only a leader may do, and stand for election again.';
  end if;
end
$$;

comment on function perdure.guard(text, uuid, bigint, text) is
'Raises QD013 unless (holder, epoch) is the last leadership of this channel, and keeps it so until
the transaction ends. Call it first in the transaction that it has to protect. Works at any
isolation level.';
