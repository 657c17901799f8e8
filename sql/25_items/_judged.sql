-- The verdict on what each item has for itself: its input and its key. A sleeper without a key is
-- woken by its input.

create or replace function perdure._judged(p_item perdure._item) returns perdure._item
language plpgsql
stable
set search_path = pg_catalog, perdure, pg_temp
as $$
declare
  v_limit int := (select c.payload_limit from perdure.config as c);
begin
  if p_item.code is not null then
    return p_item;
  elsif p_item.is_sleeping and p_item.key is null and jsonb_typeof(p_item.input) = 'string' then
    p_item.key := p_item.input #>> '{}';
  end if;
  if not perdure._is_name(p_item.key) then
    p_item.code := 'QD020';
    p_item.message := format(
      'a name has 1 to 255 characters and no control characters: %s',
      left(to_json(p_item.key)::text, 80)
    );
  elsif p_item.is_sleeping and p_item.key is null then
    p_item.code := 'QD026';
    p_item.message := 'a sleeping execution needs a key to be woken by';
  elsif perdure._exceeds(p_item.input, v_limit) then
    p_item.code := 'QD022';
    p_item.message := format('input exceeds the limit of %s bytes', v_limit);
  end if;
  return p_item;
end
$$;

comment on function perdure._judged(perdure._item) is
'The resolved item, with code and message where its input or key is refused.';
