-- The steps of a sequence that have not begun: one row each, so that a long sequence costs the same
-- for every step.

create table perdure.step (
  parent_id bigint,
  position int,
  item jsonb not null,
  primary key (parent_id, position)
) with (autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.step is 'Steps of waiting sequences that have not begun, as items.';
