-- What ended children have to tell their parents, collected by a transaction until its last step.

create type perdure._telling as (
  parent_id bigint,
  generation int,
  amount int,
  failures int
);

comment on type perdure._telling is
'`amount` children of this generation of parent_id ended, `failures` of them not completed.';
