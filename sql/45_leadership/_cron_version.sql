-- Whether there is anybody to schedule sweeps with, and if not, what to do about it.

create or replace function perdure._cron_version() returns int[]
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_version text := (select x.extversion from pg_extension as x where x.extname = 'pg_cron');
  v_home text := (select s.setting from pg_settings as s where s.name = 'cron.database_name');
begin
  if v_version is null then
    raise exception 'pg_cron is not in database %: nothing was scheduled', current_database()
      using errcode = 'QD015', hint = case
        when v_home = current_database() then 'create extension pg_cron, then try again.'
        when v_home is not null then format(
          'pg_cron of this server is at home in database %I. There: select '
          'cron.schedule_in_database(%L, %L, %L, %L)',
          v_home, 'perdure sweep', '* * * * *',
          'call perdure.sweep_for(null, ''58 s'', every => ''1 s'')', current_database()
        )
        else
          'Have the server load it (shared_preload_libraries = pg_cron, cron.database_name = this '
          'database) and create extension pg_cron. Without it, run a worker, or let any scheduler '
          'call perdure.sweep().'
      end;
  end if;
  return regexp_match(v_version, '^(\d+)\.(\d+)')::int[];
end
$$;

comment on function perdure._cron_version() is
'{major, minor} of the pg_cron in this database. Raises QD015 where there is none.';
