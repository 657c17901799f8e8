-- What a waiting parent needs at its end and not before: apart, so that counting stays cheap.

create table perdure.parked (
  id bigint primary key,
  output jsonb,
  finalize jsonb
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02);

comment on table perdure.parked is
'Output and finalize item of a parked parent; no row where there is neither.';
comment on column perdure.parked.finalize is 'The item to enqueue when the last child has ended.';
