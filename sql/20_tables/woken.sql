-- What wake() returns.

create type perdure.woken as (
  id bigint,
  status text,
  output jsonb,
  error jsonb,
  is_woken boolean
);

comment on type perdure.woken is
'Outcome of a sleeper; is_woken is false where it had ended before the call.';
