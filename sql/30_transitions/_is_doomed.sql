-- While a large cancel is being worked off, no descendant may begin. Asked only while closing holds
-- such work. A live execution below an ended one can have no other reason.

create or replace function perdure._is_doomed(p_id bigint) returns boolean
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
begin
  return (
    with recursive ancestor as (
      select r.parent_id as id from perdure.ready as r where r.id = p_id and r.parent_id is not null
      union all
      select w.parent_id
      from ancestor as a
      cross join lateral (
        select x.parent_id
        from perdure.waiting as x
        where x.id = a.id and x.parent_id is not null
        limit 1
      ) as w
    )
    select exists (
      select
      from ancestor as a
      where not exists (select from perdure.waiting as w where w.id = a.id)
    )
  );
end
$$;

comment on function perdure._is_doomed(bigint) is
'True when an ancestor of this ready execution has ended: its own end is under way.';
