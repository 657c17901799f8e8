-- The only version number of the project: the Python package reads it from this line.

create or replace function perdure.version() returns text
language sql
immutable
parallel safe
return '0.2.0';

comment on function perdure.version() is
'Version of the installed schema, major.minor.patch. A client of the same major.minor fits.';
