-- All that an assignment depends on, in short: so that a sweep that finds it unchanged is done.

create or replace function perdure._assigned_for(p_queue text, p_live int[]) returns text
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select encode(
    sha256(
      convert_to(
        coalesce(
          string_agg(
            format('%s %s %s %s', w.id, w.weight, w.is_healthy, w.id = any(p_live)), ', '
            order by w.id
          ),
          'nobody'
        ),
        'UTF8'
      )
    ),
    'hex'
  )
  from perdure.worker as w
  where p_queue = any(w.queues)
$$;

comment on function perdure._assigned_for(text, int[]) is
'A hash of the workers of a queue: who they are, their weights, who lives and who is healthy.';
