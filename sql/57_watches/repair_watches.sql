-- repair_watches: the triggers of watched tables, as they have to be. For a loop: where all is well
-- it reads the catalogue, takes no lock and writes nothing. Each table is judged alone, in a
-- subtransaction; one that is in use is left for the next time, without waiting.
-- Locks: see _mend_table.

create or replace function perdure.repair_watches(relation text default null)
returns table (table_name text, task text, operation text, problem text, result text)
language plpgsql
volatile
security definer
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_table text;
  v_found jsonb;
  v_failure text;
begin
  perform perdure._require_read_committed();
  if repair_watches.relation is null and not (select c.repair_watches from perdure.config as c) then
    return;
  end if;
  for v_table, v_found in
    select h.table_name, jsonb_agg(to_jsonb(h.*))
    from perdure.check_watches(repair_watches.relation) as h
    where h.problem is not null
    group by h.table_name
    order by h.table_name
  loop
    v_failure := null;
    begin
      perform perdure._mend_table(v_table);
    exception
      when sqlstate 'QD018' then
        v_failure := 'busy';
      when others then
        v_failure := 'failed: ' || sqlerrm;
    end;
    return query
    select
      v_table,
      f.task,
      f.operation,
      f.problem,
      case
        when perdure._is_mendable(f.problem) then coalesce(v_failure, 'repaired')
        else 'left alone'
      end
    from jsonb_to_recordset(v_found) as f (task text, operation text, problem text);
  end loop;
end
$$;

comment on function perdure.repair_watches(text) is
'Makes what check_watches() finds missing, disabled or wrong anew; one row for each problem, with
result: repaired, busy (the table is being written to: try again), left alone (only its owner can
mend that), or failed: and why. null: all tables, unless config.repair_watches is off. Raises QD010,
QD020.';
