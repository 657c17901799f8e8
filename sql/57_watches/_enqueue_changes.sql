-- Changes that one statement made become executions, by one call. What is refused is raised: the
-- statement fails rather than that a change is lost. A column that the table lost since it was
-- watched for counts as changed, for the same reason.

create or replace function perdure._enqueue_changes(
  p_watch perdure.watch, p_table text, p_operation text, p_new jsonb[], p_old jsonb[]
) returns void
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_head jsonb := jsonb_strip_nulls(
    jsonb_build_object('task', p_watch.task, 'queue', p_watch.queue)
  );
  v_items jsonb;
  v_refused record;
begin
  select jsonb_agg(
    v_head || jsonb_build_object('input', jsonb_build_object(
      'table', p_table, 'op', p_operation, 'new', c.new_row, 'old', c.old_row
    ))
    order by c.n
  )
  into v_items
  from unnest(p_new, p_old) with ordinality as c (new_row, old_row, n)
  where p_operation <> 'update'
    or p_watch.columns is null
    or exists (
      select from unnest(p_watch.columns) as w (name)
      where not c.new_row ? w.name or c.new_row -> w.name <> c.old_row -> w.name
    );
  if v_items is null then
    return;
  end if;
  select r.code, r.message into v_refused
  from perdure.enqueue_many(v_items) as r
  where r.code is not null
  order by r.item
  limit 1;
  if found then
    raise exception 'cannot enqueue a change of % for the task %: %',
      p_table, p_watch.task, v_refused.message
      using errcode = v_refused.code;
  end if;
end
$$;

comment on function perdure._enqueue_changes(perdure.watch, text, text, jsonb[], jsonb[]) is
'Enqueues {"table", "op", "new", "old"} for each pair of rows that the watch is about. Raises what
enqueue_many refuses.';
