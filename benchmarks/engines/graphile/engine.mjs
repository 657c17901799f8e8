// Graphile Worker, as its page on performance sets it up. What it has to do: ../protocol.py.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import worker from "graphile-worker";
import pg from "pg";

const { Logger, makeWorkerUtils, run, runMigrations } = worker;

const MESSAGE = "hello world payload";
const STEPS = 10;
const BULK = 1000; // per call of addJobs, which is a transaction each
const CONCURRENCY = 24;
const BATCH = 500;

// A job that has ended is deleted. Dead entries are at the old end of the index.
const UNFINISHED = `
select (
  select j.id from graphile_worker._private_jobs as j order by j.id desc limit 1
) is not null
`;

class Unsupported extends Error {}

const quiet = new Logger(() => (level, message) => {
  if (level === "error" || level === "warning") console.error(message);
});

/** Seconds of CLOCK_MONOTONIC. */
const now = () => Number(process.hrtime.bigint()) / 1e9;
const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");

let hasBegun = false;
const begun = () => {
  if (!hasBegun) {
    hasBegun = true;
    say({ begun: now() });
  }
};

const taskList = {
  noop: async () => {
    begun();
  },
  stamp: async () => {
    say({ stamped: now() });
  },
  chain: async ({ step }, helpers) => {
    begun();
    if (step < STEPS) await helpers.addJob("chain", { step: step + 1 });
  },
};

function inputs(what, count) {
  switch (what) {
    case "noop":
      return Array.from({ length: count }, (_, i) => ({ i, msg: MESSAGE }));
    case "chain": // the body of step n enqueues step n + 1: nothing else makes it a chain
      return Array.from({ length: count }, () => ({ step: 1 }));
    case "tree":
      throw new Unsupported("no trees");
    case "loop":
      throw new Unsupported("no loops");
    default:
      throw new Unsupported(`no ${what}`);
  }
}

function describe() {
  // The package does not export its package.json.
  const main = createRequire(import.meta.url).resolve("graphile-worker");
  const { version } = JSON.parse(readFileSync(new URL("../package.json", `file://${main}`)));
  return {
    version,
    settings: {
      concurrentJobs: CONCURRENCY,
      maxPoolSize: CONCURRENCY + 1,
      "localQueue.size": BATCH,
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
      node: process.version,
      bulk: `${BULK} per call and transaction`,
    },
    unfinished: UNFINISHED,
  };
}

async function enqueue(dsn, what, how, count) {
  const given = inputs(what, count);
  const utils = await makeWorkerUtils({ connectionString: dsn, logger: quiet });
  const client = new pg.Client({ connectionString: dsn });
  await client.connect();
  await utils.withPgClient((pooled) => pooled.query("select 1")); // connected
  const began = now();
  switch (how) {
    case "one":
      for (const payload of given) await utils.addJob(what, payload);
      break;
    case "bulk":
      for (let start = 0; start < given.length; start += BULK) {
        const chunk = given.slice(start, start + BULK);
        await utils.addJobs(chunk.map((payload) => ({ identifier: what, payload })));
      }
      break;
    case "transaction":
      await client.query("begin");
      for (const payload of given) {
        const values = [what, JSON.stringify(payload)];
        await client.query("select graphile_worker.add_job($1, $2::json)", values);
      }
      await client.query("commit");
      break;
    default:
      throw new Unsupported(how);
  }
  const seconds = now() - began;
  await client.end();
  await utils.release();
  return { seconds };
}

async function work(dsn, options) {
  if (options.sync) throw new Unsupported("no threads for bodies");
  const concurrentJobs = options.concurrency ?? CONCURRENCY;
  const runner = await run({
    preset: {
      worker: {
        connectionString: dsn,
        concurrentJobs,
        maxPoolSize: concurrentJobs + 1,
        localQueue: { size: options.batch ?? BATCH },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger: quiet,
      },
    },
    taskList,
    noHandleSignals: true, // its own handler ends the process by the same signal
  });
  process.once("SIGTERM", () => runner.stop());
  await runner.promise;
}

async function send(dsn) {
  const utils = await makeWorkerUtils({ connectionString: dsn, logger: quiet });
  await utils.withPgClient((pooled) => pooled.query("select 1"));
  say({ ready: true });
  for await (const _ of createInterface({ input: process.stdin })) {
    const called = now();
    await utils.addJob("stamp", {});
    say({ called, committed: now() });
  }
  await utils.release();
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { options: { type: "string", default: "{}" } },
});
const [command, dsn, what = "noop", how = "bulk", count = "0"] = positionals;
try {
  switch (command) {
    case "install":
      await runMigrations({ connectionString: dsn, logger: quiet });
      break;
    case "describe":
      say(describe());
      break;
    case "enqueue":
      say(await enqueue(dsn, what, how, Number(count)));
      break;
    case "work":
      await work(dsn, JSON.parse(values.options));
      break;
    case "send":
      await send(dsn);
      break;
    default:
      throw new Error(`no command ${command}`);
  }
} catch (error) {
  if (!(error instanceof Unsupported)) throw error;
  say({ unsupported: error.message });
  process.exitCode = 3;
}
