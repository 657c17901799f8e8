-- Names of jobs are short in older versions of pg_cron.

create or replace function perdure._cron_job(p_channel text) returns text
language sql
immutable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select case
    when p_channel is null then 'perdure sweep'
    when octet_length(p_channel) <= 40 then 'perdure sweep ' || p_channel
    else 'perdure sweep #' || md5(p_channel)
  end
$$;

comment on function perdure._cron_job(text) is 'Name of the job that sweeps a channel (null: all).';
