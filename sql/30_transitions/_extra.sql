-- What a body may want to know of its execution beyond the plainest facts. Only plain arguments, so
-- that it is inlined.

create or replace function perdure._extra(
  p_id bigint, p_queue text, p_parent_id bigint, p_root_id bigint, p_position int,
  p_is_finalize boolean, p_iteration int, p_crashes int, p_key text, p_deadline_at timestamptz,
  p_headers jsonb, p_tags text[], p_shard_key text
) returns jsonb
language sql
stable
as $$
  select case
    when p_queue = 'default' and p_position is not null
      and p_key is null and p_deadline_at is null and p_headers is null and p_tags is null
      and p_shard_key is null and p_iteration + p_crashes = 0
      -- what nearly all children have: to strip nulls takes longer than all the rest
      then jsonb_build_object(
        'parent_id', p_parent_id, 'root_id', p_root_id, 'position', p_position
      )
    else jsonb_strip_nulls(jsonb_build_object(
      'parent_id', p_parent_id,
      'root_id', nullif(p_root_id, p_id),
      'position', p_position,
      'is_finalize', nullif(p_is_finalize, false),
      'iteration', nullif(p_iteration, 0),
      'crashes', nullif(p_crashes, 0),
      'key', p_key,
      'queue', nullif(p_queue, 'default'),
      'deadline_at', p_deadline_at,
      'tags', p_tags,
      'shard_key', p_shard_key
    ))
    || case when p_headers is null then '{}' else jsonb_build_object('headers', p_headers) end
  end
$$;

comment on function perdure._extra(
  bigint, text, bigint, bigint, int, boolean, int, int, text, timestamptz, jsonb, text[], text
) is
'The `extra` object of a claimed execution, without the last error; fields that say nothing are left
out.';
