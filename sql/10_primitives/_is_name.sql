-- What task, queue, key, scope, tag and worker names have to look like.

create or replace function perdure._is_name(p_name text) returns boolean
language sql
immutable
parallel safe
as $$
  select pg_catalog.char_length(p_name) between 1 and 255
    and p_name !~ '[\u0001-\u001f\u007f-\u009f]'
$$;

comment on function perdure._is_name(text) is
'True for 1 to 255 characters without control characters (C0, DEL, C1); null for null.';
