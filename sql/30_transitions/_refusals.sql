-- Outcomes that changed nothing, and why. A token whose outcome is recorded stands in finished, in
-- attempt, or with the room row to which that outcome led; a lease that was taken away left a
-- higher token there.

create or replace function perdure._refusals(
  p_outcomes jsonb, p_done bigint[], p_rest perdure.running[]
) returns jsonb
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
  v_taken text[] :=
    array(select f.id || ' ' || f.token from perdure.finished as f where f.id = any(p_done))
    || array(select r.id || ' ' || r.token from unnest(p_rest) as r);
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', o.value -> 'id',
      'token', o.value -> 'token',
      'result', v.result,
      'code', case v.result when 'lost' then 'QD008' when 'invalid' then 'QD028' end,
      'message', case v.result
        when 'lost' then 'this lease is not held; nothing was changed'
        when 'invalid' then 'an outcome is an object with id, token and outcome; one per lease'
      end
    ) order by o.n), '[]')
    from jsonb_array_elements(p_outcomes) with ordinality as o (value, n)
    cross join lateral (
      select case
        when not perdure._names_a_lease(o.value) then 'invalid'
        else perdure._verdict((o.value ->> 'id')::bigint, (o.value ->> 'token')::int)
      end as result
    ) as v
    where not perdure._names_a_lease(o.value)
      or (o.value ->> 'id')::bigint || ' ' || (o.value ->> 'token')::int <> all(v_taken)
  );
end
$$;

comment on function perdure._refusals(jsonb, bigint[], perdure.running[]) is
'One object {id, token, result, code, message} for each outcome that named no held lease; result is
already, cancelled, lost or invalid.';
