-- Claims (scope, key) for a new execution, or finds who has it. The insert waits for a concurrent
-- holder's commit; what it left is read in a new statement, since the first one cannot see it.

create or replace function perdure._take_key(p_item perdure._item, p_now timestamptz)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, perdure, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  v_holder perdure.key;
begin
  for v_try in 1 .. 100 loop  -- each turn lost a race against another transaction's commit
    insert into perdure.key (scope, key, id, keep_ms)
    values (
      p_item.key_scope, p_item.key, p_item.id,
      case when not p_item.is_kept_ever then p_item.keep_ms end
    )
    on conflict do nothing;
    if found then
      return p_item.id;
    end if;
    select k.* into v_holder
    from perdure.key as k
    where k.scope = p_item.key_scope and k.key = p_item.key;
    if v_holder.until <= p_now then
      delete from perdure.key as k
      where k.scope = v_holder.scope and k.key = v_holder.key and k.id = v_holder.id
        and k.until <= p_now;  -- a redrive may have taken it again
    elsif v_holder.id is not null then
      return v_holder.id;
    end if;
  end loop;
  raise exception 'key % of % stayed contended', p_item.key, p_item.key_scope
    using errcode = 'serialization_failure', hint = 'Try again.';
end
$$;

comment on function perdure._take_key(perdure._item, timestamptz) is
'Id of the execution that holds the item''s key: the item''s own id when it was free.';
