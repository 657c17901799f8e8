-- How long a refused candidate leaves the leader in peace. Whoever leads may be killed without a
-- word, so somebody has to ask often; where many workers stand for a queue's housekeeping, not each
-- of them: four ask together about four times a second, more of them each about once.

create or replace function perdure._pause_ms(p_purpose text, p_channel text) returns int
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
as $$
begin
  if p_purpose <> 'sweep' then
    return null;  -- who else stands for a lock of a user's is not known
  end if;
  return 250 * nullif(count(*), 0)
  from (
    select
    from perdure.worker as w
    where w.lost_at is null and p_channel = any(w.queues)
    limit 4
  ) as candidate;
end
$$;

comment on function perdure._pause_ms(text, text) is
'Milliseconds after which a refused candidate should ask again; null where that is for it to say.';
