-- Ends the extension's script alone: pg_dump keeps the rows of an extension's tables only where it
-- is told to. Left out is what CREATE EXTENSION writes itself, and would write twice on restoring.

select pg_catalog.pg_extension_config_dump(oid, '')
from pg_catalog.pg_class
where relnamespace = 'perdure'::pg_catalog.regnamespace
  and relkind in ('r', 'S')
  and relname not in ('config', 'migration');
