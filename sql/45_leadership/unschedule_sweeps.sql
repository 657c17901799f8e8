-- unschedule_sweeps: takes back every schedule_sweeps() of this database

create or replace function perdure.unschedule_sweeps() returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_count int;
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  perform perdure._cron_version();
  execute format(
    'select count(%1$I.unschedule(j.jobid)) from %1$I.job as j '
    'where j.database = current_database() and j.jobname ~ %2$L',
    'cron', '^perdure sweep( |$)'
  )
  into v_count;
  return v_count;
end
$$;

comment on function perdure.unschedule_sweeps() is
'Removes the jobs that schedule_sweeps() gave to pg_cron; returns how many. Raises QD010, QD015,
QD016.';
