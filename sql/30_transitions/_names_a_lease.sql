-- An outcome can be looked up only if it names a lease with numbers that fit.

create or replace function perdure._names_a_lease(p_outcome jsonb) returns boolean
language sql
immutable
parallel safe
as $$
  select coalesce(
    pg_catalog.jsonb_typeof(p_outcome) = 'object'
    and p_outcome ->> 'id' ~ '^[0-9]{1,18}$'
    and p_outcome ->> 'token' ~ '^[0-9]{1,9}$',
    false
  )
$$;

comment on function perdure._names_a_lease(jsonb) is
'True for an object whose id and token are whole numbers.';
