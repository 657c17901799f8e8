-- The schema holds everything of Perdure: nothing is created outside of it.

create schema perdure;

comment on schema perdure is
'Perdure: durable tasks inside PostgreSQL. Every transition is a function here; see sql/README.md.';
