-- What the client of 0.1.0 says: every statement once.

select item, id, is_new, code, message from perdure.enqueue_many($1::jsonb) order by item;

select perdure.define_tasks($1::jsonb);

select
  id, task, queue, priority, status, attempt, crashes, iteration, input::text, output::text,
  error::text, key, parent_id, parent_generation, position, is_finalize, root_id, worker_id, tags,
  headers::text, created_at, start_at, started_at, expires_at, finished_at, deadline_at,
  max_attempts, timeout
from perdure.get_execution($1::bigint);

select status from perdure.get_execution($1::bigint);

select
  id, task, queue, priority, status, attempt, crashes, iteration, input::text, output::text,
  error::text, key, parent_id, parent_generation, position, is_finalize, root_id, worker_id, tags,
  headers::text, created_at, start_at, started_at, expires_at, finished_at, deadline_at,
  max_attempts, timeout
from perdure.executions
where
  ($1::text is null or status = $2)
  and ($3::text is null or task = $4)
  and ($5::text is null or queue = $6)
  and ($7::bigint is null or parent_id = $8)
  and (not $9::boolean or parent_id is null)
  and ($10::bigint is null or id < $11)
order by id desc
limit $12;

select id, status, output::text, error::text from perdure.outcomes($1::bigint[]);

select position, id, task, status, output::text, error::text
from perdure.children($1::bigint, $2::int, $3::int, $4::int)
order by position;

select
  id, parent_id, depth, position, is_finalize, task, status, attempt, started_at, finished_at,
  error::text
from perdure.tree($1::bigint, $2::int);

select status, executions from perdure.tree_progress($1::bigint);

select attempt, token, status, error::text, output::text, worker_id, started_at, ended_at
from perdure.attempts($1::bigint);

select perdure.version();

select id, status, output::text, error::text, is_woken
from perdure.wake(
  $1::text, $2::text, output => $3::jsonb, error => $4::jsonb, key_scope => $5::text
);

select perdure.cancel($1::bigint, $2::text);

select perdure.retry_finished($1::bigint, detach => $2::boolean);

select promoted, recovered, timed_out, closed, moved, forgotten, more
from perdure.sweep($1::text, $2::int);

select invariant, id, detail from perdure.fsck();

select perdure.register_worker($1::text, $2::text[], $3::text[], $4::jsonb);

select id, token from perdure.resume_worker($1::uuid, $2::bigint[], $3::bigint);

select perdure.unregister_worker($1::uuid);

select results::text, claimed::text, gone, more, wait_ms, next_after::text
from perdure.exchange(
  $1::uuid, $2::jsonb, $3::int, null, null, $4::bigint[], $5::bigint, $6::jsonb
);

select id, token, result, code, message from perdure.finish($1::uuid, $2::jsonb);
