-- The three queries of _watched(), with a condition: rows of the table's own type, as new and old.
-- Planned at every statement, so that the join of updates suits their number.

create or replace function perdure._changes_query(
  p_relation oid, p_operation text, p_condition text
) returns text
language sql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
  select format(
    $query$
      select array_agg(c.new_row order by c.n), array_agg(c.old_row order by c.n)
      from (
        select row_number() over () as n, %4$s as new_row, %5$s as old_row
        from %3$s
        where (%2$s
        )
      ) as c
      group by (c.n - 1) / 10000
      order by (c.n - 1) / 10000
    $query$,
    p_relation::regclass,
    p_condition,
    format(
      case p_operation
        when 'INSERT' then 'perdure_new as new cross join (select (null::%1$s).*) as old'
        when 'DELETE' then 'perdure_old as old cross join (select (null::%1$s).*) as new'
        else $from$(
            select row_number() over () as n, (perdure_new.*)::%1$s as value from perdure_new
          ) as a
          join (
            select row_number() over () as n, (perdure_old.*)::%1$s as value from perdure_old
          ) as b on b.n = a.n
          cross join lateral (select (a.value).*) as new
          cross join lateral (select (b.value).*) as old
        $from$
      end,
      p_relation::regclass
    ),
    case p_operation when 'DELETE' then 'null::jsonb' else 'to_jsonb(new.*)' end,
    case p_operation when 'INSERT' then 'null::jsonb' else 'to_jsonb(old.*)' end
  )
$$;

comment on function perdure._changes_query(oid, text, text) is
'The text of a query for _watched(): the changes for which the condition holds, 10,000 a row, as two
arrays: new and old.';
