-- Who holds a channel. Authority is this row (holder, epoch), written only when it changes hands;
-- liveness is an advisory lock, or a lease where a pooler forbids such locks. The key of the lock
-- is stored, never derived from the name: no two channels can collide.

create table perdure.leader (
  purpose text,
  channel text,
  lock_key int generated always as identity unique,
  backend int,
  epoch bigint not null default 0,
  acquired_at timestamptz,
  expires_at timestamptz,
  holder uuid,
  mode text,
  name text,
  is_unwanted boolean not null default false,
  primary key (purpose, channel),
  -- makes a higher epoch an update of a key, which waits for those that hold FOR KEY SHARE; a
  -- renewed lease is none and does not
  constraint leader_has_one_holder_per_epoch unique (purpose, channel, epoch),
  constraint leader_purpose_is_known check (purpose in ('sweep', 'lock')),
  constraint leader_channel_is_a_name check (perdure._is_name(channel)),
  constraint leader_mode_is_known check (mode in ('session', 'lease', 'oneshot')),
  constraint leader_has_a_mode_iff_a_holder check ((holder is null) = (mode is null)),
  constraint lease_has_an_end_and_nothing_else
  check ((expires_at is not null) = (mode is not distinct from 'lease'))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.leader is
'Channels that were ever led: sweep (who sweeps a queue) and lock (anything of the users'').';
comment on column perdure.leader.lock_key is
'Second key of its advisory lock, negated; the first one is config.lock_namespace.';
comment on column perdure.leader.epoch is
'Rises with every change of hands, never falls: with the holder it proves leadership.';
comment on column perdure.leader.mode is
'session: held as long as the advisory lock; lease: until expires_at; oneshot: for one transaction,
which is over; null: resigned.';
comment on column perdure.leader.is_unwanted is
'Whether a holder that hears no notifications was asked to resign: it learns so when it renews.';
comment on column perdure.leader.backend is 'Process of the server at which it was elected.';
