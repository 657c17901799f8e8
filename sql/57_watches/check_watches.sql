-- check_watches: whether the triggers of watched tables are as they have to be, part by part. Reads
-- the catalogue and nothing else; what stands at a table but belongs to none of its watches is
-- found by its dependence on the trigger function.

create or replace function perdure.check_watches(relation text default null)
returns table (watch int, table_name text, task text, operation text, problem text)
language sql
stable
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
  with asked as (
    select t.schema_name, t.table_name from perdure._table_named(check_watches.relation) as t
  ), wanted as (
    select
      w.id,
      w.schema_name,
      w.table_name,
      w.task,
      o.name as operation,
      o.n,
      perdure._table_oid(w.schema_name, w.table_name) as relation,
      case when o.name = 'update' then w.columns end as columns
    from perdure.watch as w
    cross join asked as a
    cross join lateral unnest(w.operations) with ordinality as o (name, n)
    where check_watches.relation is null
      or w.schema_name = a.schema_name and w.table_name = a.table_name
  ), verdict as (
    select
      w.id,
      w.schema_name,
      w.table_name,
      w.task,
      w.operation,
      w.n,
      case
        when w.relation is null then 'no such table'
        when t.oid is null then 'missing'
        when t.tgfoid <> 'perdure._watched'::regproc then 'wrong function'
        when t.tgtype <> case w.operation when 'insert' then 4 when 'delete' then 8 else 16 end
          or t.tgargs <> convert_to(w.id::text, 'UTF8') || '\x00'
          or t.tgqual is not null
          or t.tgnewtable is distinct from case
            when w.operation <> 'delete' then 'perdure_new'
          end
          or t.tgoldtable is distinct from case
            when w.operation <> 'insert' then 'perdure_old'
          end
          then 'wrong definition'
        when t.tgenabled not in ('O', 'A') then 'disabled'
        when perdure._missing_column(w.relation, w.columns) is not null then 'no such column'
      end as problem
    from wanted as w
    left join pg_trigger as t
      on t.tgrelid = w.relation
      and t.tgname = format('perdure_watch_%s_%s', w.id, w.operation)
    union all
    select w.id, n.nspname, c.relname, w.task, substring(t.tgname from '[a-z]+$'), 4, 'stray'
    from asked as a
    join pg_depend as d
      on d.refclassid = 'pg_proc'::regclass and d.refobjid = 'perdure._watched'::regproc
      and d.classid = 'pg_trigger'::regclass
    join pg_trigger as t on t.oid = d.objid
    join pg_class as c on c.oid = t.tgrelid
    join pg_namespace as n on n.oid = c.relnamespace
    left join perdure.watch as w
      on t.tgname ~ format('^perdure_watch_%s_(insert|update|delete)$', w.id)
    where (w.schema_name, w.table_name) is distinct from (n.nspname::text, c.relname::text)
      and (
        check_watches.relation is null
        or n.nspname = a.schema_name and c.relname = a.table_name
      )
  )
  select v.id, format('%I.%I', v.schema_name, v.table_name), v.task, v.operation, v.problem
  from verdict as v
  order by v.schema_name, v.table_name, v.task, v.n, v.operation
$$;

comment on function perdure.check_watches(text) is
'One row for each trigger of the watches (of one table, or null: of all). problem is null where it
is as it has to be; missing, disabled, wrong function, wrong definition: repair_watches() mends it;
no such table, no such column: the table has changed; stray: a trigger on a table that was renamed,
or of no watch. Raises QD020 for what is no name.';
