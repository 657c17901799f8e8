-- The trigger of every watched table, after each statement: its changed rows become executions, in
-- the same transaction. With the rights of the engine's owner, so whoever may write the table need
-- not know of the engine. Locks: those of enqueue.
-- The n-th old and the n-th new row of an update are one row: the server notes both at once, row
-- by row (also where it moves to another partition), and gives them back in that order. A key may
-- have changed, so there is nothing better to match them by. They are zipped, not joined: a plan
-- made for one row would join a thousand in a loop.
-- The settings are those on which a value's text depends: inputs must not vary with the writer.

create or replace function perdure._watched() returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set intervalstyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
  v_watch perdure.watch;
  v_changes refcursor;
  v_new jsonb[];
  v_old jsonb[];
begin
  select w.* into v_watch from perdure.watch as w where w.id = tg_argv[0]::int;
  if not found and current_setting('transaction_isolation') in ('repeatable read', 'serializable')
  then
    -- a change that went by would be lost
    raise exception 'the table % is watched since this transaction began', tg_relid::regclass
      using errcode = 'serialization_failure', hint = 'Try the transaction again.';
  end if;
  if lower(tg_op) = any(v_watch.operations) is not true then
    return null;  -- unwatched, or left by a watch that has fewer operations than it had
  end if;
  if tg_op = 'UPDATE' then  -- only then are there two tables
    if (select count(*) from perdure_new) <> (select count(*) from perdure_old) then
      raise exception 'rows of % vanished while an update moved them: old and new do not match',
        tg_relid::regclass
        using errcode = 'QD040', hint = 'A trigger of a partition refused a row.';
    end if;
  end if;
  if v_watch.condition is not null then
    open v_changes for execute perdure._changes_query(tg_relid, tg_op, v_watch.condition);
  elsif tg_op = 'INSERT' then
    open v_changes for
      select array_agg(c.value order by c.n), null::jsonb[]
      from (select row_number() over () as n, to_jsonb(t.*) as value from perdure_new as t) as c
      group by (c.n - 1) / 10000
      order by (c.n - 1) / 10000;
  elsif tg_op = 'DELETE' then
    open v_changes for
      select null::jsonb[], array_agg(c.value order by c.n)
      from (select row_number() over () as n, to_jsonb(t.*) as value from perdure_old as t) as c
      group by (c.n - 1) / 10000
      order by (c.n - 1) / 10000;
  else
    open v_changes for
      select
        array_agg(c.value order by c.n) filter (where c.is_new),
        array_agg(c.value order by c.n) filter (where not c.is_new)
      from (
        select true as is_new, row_number() over () as n, to_jsonb(t.*) as value
        from perdure_new as t
        union all
        select false, row_number() over (), to_jsonb(t.*)
        from perdure_old as t
      ) as c
      group by (c.n - 1) / 10000
      order by (c.n - 1) / 10000;
  end if;
  loop  -- ten thousand changes a turn
    fetch v_changes into v_new, v_old;
    exit when not found;
    perform perdure._enqueue_changes(
      v_watch, format('%I.%I', tg_table_schema, tg_table_name), lower(tg_op), v_new, v_old
    );
  end loop;
  close v_changes;
  return null;
end
$$;

comment on function perdure._watched() is
'Trigger function of watched tables; its argument is the id of a watch. What enqueue refuses is
raised with its code, 40001 where the watch is younger than the transaction''s snapshot.';
