-- Whose turn it is: at most one execution of a shard key at a time. A claim takes the turn, the end
-- of the execution gives it back (on_retry skip: also whatever else takes it out of running).

create table perdure.turn (
  queue text,
  shard_key text,
  id bigint not null unique,
  primary key (queue, shard_key)
) with (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.turn is
'Shard keys in use, each with the execution whose turn it is. No row where none has begun.';
