-- Ends the extension's scripts alone: pg_dump keeps the rows of an extension's tables only where it
-- is told to. Left out is what CREATE EXTENSION writes itself, and would write twice on restoring.

do $$
declare
  v_relation regclass;
begin
  for v_relation in
    select c.oid
    from pg_catalog.pg_class as c
    where c.relnamespace = 'perdure'::pg_catalog.regnamespace
      and c.relkind in ('r', 'S')
      and c.relname not in ('config', 'migration', 'retention')
  loop
    perform pg_catalog.pg_extension_config_dump(v_relation, '');
  end loop;
end
$$;
