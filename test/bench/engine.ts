import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sqlite3 from 'sqlite3';
import { Scope } from '#kernel/scope.js';
import { finishedJob, startEngineRig, type EngineRig } from './engine-rig.js';
import { profile } from './profile.js';
import { inFlight, print, printMachine, quantile } from './report.js';
import { serverMemory } from './server-memory.js';

/**
 * Speed and memory of the job engine, with our agent on the same machine and SQLite on disk; each figure
 * beside one of the same run that owes nothing to us. Run from the sources by tsx, as the tests are.
 *
 * usage: npm run bench:engine -- [jobs]
 */
const jobs = Number(process.argv[2] ?? 300);
const width = 16;

/** Rows of a job's size in transactions of `width`, each durable. @returns rows per second */
async function rawInserts(): Promise<number> {
  const directory = await mkdtemp(join(tmpdir(), 'vsite-bench-'));
  const database = new sqlite3.Database(join(directory, 'raw.sqlite'));
  const run = (sql: string, ...values: unknown[]): Promise<void> =>
    new Promise((resolve, reject) =>
      database.run(sql, values, (error) => (error ? reject(error) : resolve())),
    );
  await run('PRAGMA journal_mode = WAL');
  await run('PRAGMA synchronous = FULL');
  await run('CREATE TABLE raw (id TEXT PRIMARY KEY, document TEXT)');
  const document = JSON.stringify(finishedJob('CN=Raw', 0));
  const groups = 60;
  const ms = await inFlight(groups, 1, async (group) => {
    await run('BEGIN IMMEDIATE');
    const rows = Array.from({ length: width }, (_, at) =>
      run('INSERT INTO raw VALUES (?, ?)', `${group} ${at}`, document),
    );
    await Promise.all(rows);
    await run('COMMIT');
  });
  await new Promise((resolve) => database.close(resolve));
  await rm(directory, { recursive: true });
  return (groups * width * 1_000) / ms;
}

/** @returns shells per second, and ms of a single one */
async function spawnRate(): Promise<{ perSecond: number; oneMs: number }> {
  const shell = async (): Promise<void> => {
    await once(spawn('/bin/bash', ['-c', 'true'], { stdio: 'ignore' }), 'exit');
  };
  const oneMs = (await inFlight(30, 1, shell)) / 30;
  return { perSecond: (jobs * 1_000) / (await inFlight(jobs, width, shell)), oneMs };
}

async function submissions({ submit, ended }: EngineRig): Promise<void> {
  const ids: string[] = [];
  const ms = await inFlight(jobs, width, async () => ids.push(await submit()));
  const rate = (jobs * 1_000) / ms;
  await ended(ids);
  const raw = await rawInserts();
  print({
    what: `submissions, ${width} at once, while jobs start`,
    value: `${rate.toFixed(0)} per s`,
    goal: '>= 600 per s',
    met: rate >= 600,
    baseline: `${raw.toFixed(0)} durable inserts per s in groups of ${width}`,
  });
}

async function latency({ runJob }: EngineRig): Promise<void> {
  const times: number[] = [];
  for (let round = 0; round < 30; round++) times.push(await inFlight(1, 1, runJob));
  const { oneMs } = await spawnRate();
  const p50 = quantile(times, 0.5);
  print({
    what: 'trivial job, submit to SUCCESSFUL, idle, p50/p90',
    value: `${p50.toFixed(0)} / ${quantile(times, 0.9).toFixed(0)} ms`,
    goal: '< 150 ms',
    met: p50 < 150,
    baseline: `bash -c true: ${oneMs.toFixed(1)} ms`,
  });
}

type Spent = { readonly ms: number; readonly cpuMs: number };

async function runMany({ runJob }: EngineRig): Promise<Spent> {
  const before = process.cpuUsage();
  const ms = await inFlight(jobs, width, runJob);
  const { user, system } = process.cpuUsage(before);
  return { ms: ms / jobs, cpuMs: (user + system) / 1_000 / jobs };
}

async function sustained(rig: EngineRig): Promise<void> {
  const { ms, cpuMs } = await runMany(rig);
  const { perSecond } = await spawnRate();
  print({
    what: `jobs end to end, ${width} in flight`,
    value: `${(1_000 / ms).toFixed(0)} per s`,
    goal: '>= 60 per s',
    met: 1_000 / ms >= 60,
    baseline: `bash -c true: ${perSecond.toFixed(0)} per s; engine: ${cpuMs.toFixed(1)} ms CPU per job`,
  });
}

/** In turns, so that what else the machine does falls on both. */
async function costByStore(scope: Scope): Promise<void> {
  const [few, many] = [await startEngineRig(scope, 200), await startEngineRig(scope, 20_000)];
  await runMany(few);
  await runMany(many);
  const costs = { few: [] as Spent[], many: [] as Spent[] };
  for (let round = 0; round < 3; round++) {
    costs.few.push(await runMany(few));
    costs.many.push(await runMany(many));
  }
  const median = (all: readonly Spent[], key: keyof Spent): number =>
    quantile(
      all.map((spent) => spent[key]),
      0.5,
    );
  const ratio = median(costs.many, 'cpuMs') / median(costs.few, 'cpuMs');
  const wall = median(costs.many, 'ms') / median(costs.few, 'ms');
  print({
    what: 'cost of a job, 20,000 stored / 200 stored',
    value: `${ratio.toFixed(2)} (CPU), ${wall.toFixed(2)} (time)`,
    goal: '<= 1.2',
    met: ratio <= 1.2 && wall <= 1.2,
    baseline: `${median(costs.few, 'cpuMs').toFixed(2)} ms CPU per job with 200 stored`,
  });
}

async function biggestCosts(rig: EngineRig): Promise<void> {
  const costs = await profile(() => runMany(rig));
  process.stdout.write('the engine under load spends its CPU time on\n');
  for (const { where, share } of costs.slice(0, 8))
    process.stdout.write(`  ${(100 * share).toFixed(1).padStart(5)} %  ${where}\n`);
}

printMachine();
await using scope = new Scope();
const rig = await startEngineRig(scope, 0);
await runMany(rig); // warm
await submissions(rig);
await latency(rig);
await sustained(rig);
await biggestCosts(rig);
await costByStore(scope);
print(await serverMemory(100_000));
