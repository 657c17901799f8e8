-- unschedule_sweeps: takes back every schedule_sweeps() of this database

create or replace function perdure.unschedule_sweeps() returns int
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_job bigint;
  v_count int := 0;
begin
  perform perdure._require_primary();
  perform perdure._require_read_committed();
  perform perdure._cron_version();
  for v_job in execute
    'select j.jobid from cron.job as j'
    ' where j.database = current_database() and j.jobname ~ ''^perdure sweep( |$)'''
  loop
    execute 'select cron.unschedule($1)' using v_job;
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$$;

comment on function perdure.unschedule_sweeps() is
'Removes the jobs that schedule_sweeps() gave to pg_cron; returns how many. Raises QD010, QD015,
QD016.';
