-- Everything in schema perdure, one row per object, the same for every way of installing it.

select
  'routine' as kind,
  p.oid::regprocedure::text as name,
  concat_ws(
    '|', pg_get_functiondef(p.oid), obj_description(p.oid, 'pg_proc'),
    (select string_agg(a::text, ',' order by a::text) from unnest(p.proacl) as a)
  ) as fingerprint
from pg_proc as p
where p.pronamespace = 'perdure'::regnamespace
union all
select
  'column',
  c.oid::regclass::text || '.' || a.attname,
  concat_ws(
    '|', row_number() over (partition by c.oid order by a.attnum),
    format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
    pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation,
    col_description(c.oid, a.attnum)
  )
from pg_class as c
inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'perdure'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'c')
union all
select
  'relation',
  c.oid::regclass::text,
  concat_ws(
    '|', c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
    array_to_string(c.reloptions, ','),
    case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
    obj_description(c.oid, 'pg_class'),
    (select string_agg(a::text, ',' order by a::text) from unnest(c.relacl) as a)
  )
from pg_class as c
where c.relnamespace = 'perdure'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
union all
select
  'sequence', seqrelid::regclass::text, concat_ws('|', seqstart, seqincrement, seqmax, seqcache)
from pg_sequence
where seqrelid in (select oid from pg_class where relnamespace = 'perdure'::regnamespace)
union all
select
  'constraint',
  coalesce(conrelid::regclass::text || '.', '') || conname,
  pg_get_constraintdef(oid)
from pg_constraint
where connamespace = 'perdure'::regnamespace and contype <> 'n'
union all
select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
from pg_index
where indexrelid in (select oid from pg_class where relnamespace = 'perdure'::regnamespace)
union all
select 'trigger', tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(oid)
from pg_trigger
where
  tgrelid in (select oid from pg_class where relnamespace = 'perdure'::regnamespace)
  and not tgisinternal
union all
select 'enum', t.oid::regtype::text, string_agg(e.enumlabel, ',' order by e.enumsortorder)
from pg_type as t
inner join pg_enum as e on e.enumtypid = t.oid
where t.typnamespace = 'perdure'::regnamespace
group by t.oid
union all
select
  'domain',
  oid::regtype::text,
  concat_ws('|', format_type(typbasetype, typtypmod), typnotnull, typdefault)
from pg_type
where typnamespace = 'perdure'::regnamespace and typtype = 'd'
union all
select
  'schema',
  'perdure',
  concat_ws(
    '|', obj_description(oid, 'pg_namespace'),
    (select string_agg(a::text, ',' order by a::text) from unnest(nspacl) as a)
  )
from pg_namespace
where nspname = 'perdure'
order by 1, 2;
