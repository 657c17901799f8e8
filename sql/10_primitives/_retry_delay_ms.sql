-- base * multiplier^(n-1), or base * n; capped; then jittered; always whole milliseconds, so that
-- no fraction can reach a bigint column. The power is capped before it can overflow.

create or replace function perdure._retry_delay_ms(
  p_retry int,
  p_base_ms int,
  p_multiplier double precision,
  p_cap_ms int,
  p_jitter double precision,
  p_is_linear boolean
) returns bigint
language sql
volatile
as $$
  select pg_catalog.round(
    (
      case
        when p_base_ms = 0 then 0
        when p_is_linear then least(p_base_ms::double precision * p_retry, p_cap_ms)
        when p_multiplier > 1 and (p_retry - 1) * pg_catalog.ln(p_multiplier) > 20 then p_cap_ms
        when p_multiplier < 1 and (p_retry - 1) * pg_catalog.ln(p_multiplier) < -20 then 0
        else least(p_base_ms * pg_catalog.power(p_multiplier, p_retry - 1), p_cap_ms)
      end * (1 + p_jitter * (2 * pg_catalog.random() - 1))
    )::numeric
  )::bigint
$$;

comment on function perdure._retry_delay_ms(
  int, int, double precision, int, double precision, boolean
) is
'Milliseconds to wait before retry number p_retry (1, 2, …): exponential or linear, capped, then
spread by ± p_jitter (0 to 1).';
