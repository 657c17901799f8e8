-- A first task with nothing but psql: `psql -f first_task.sql` on a database that has the schema.
-- This session is also the worker, so keep it open from register_worker on.

select perdure.enqueue('greet', '{"name": "Ada"}', max_attempts => 3) as id \gset

select perdure.register_worker('psql', '{default}', '{greet}') as worker \gset

select id, token, input ->> 'name' as name
from perdure.claim_ready(:'worker') \gset

select result
from perdure.finish(:'worker', jsonb_build_array(jsonb_build_object(
  'id', :id, 'token', :token, 'outcome', 'completed', 'output', 'Hello, ' || :'name' || '!'
)));

select perdure.unregister_worker(:'worker');

select status, output from perdure.executions where id = :id;
