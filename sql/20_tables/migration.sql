-- Which files of migrations/ this database has seen.

create table perdure.migration (
  name text primary key,
  applied_at timestamptz not null default now()
);

comment on table perdure.migration is
'Names of the applied migrations. A fresh install records all that it was built from.';
