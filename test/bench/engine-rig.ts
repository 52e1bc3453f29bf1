import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { logLine } from '#xnjs/job/log-line.js';
import type { Job } from '#xnjs/job/job.js';
import { jobStatus } from '#xnjs/job/status.js';
import { jobMigrations } from '#xnjs/persistence/job-models.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { targetMigrations } from '#xnjs/persistence/sql-target-store.js';
import { startAgent } from '../tsi/agent-process.js';
import { ownerDn, scratch, startEngine, targetId } from '../xnjs/job/rig.js';
import { inFlight } from './report.js';

/** What every grid user tries first. */
export const trivialJob = { Executable: '/bin/true' };

export type EngineRig = {
  /** Resolves when the job is stored. */
  readonly submit: () => Promise<string>;
  /** Submits a job; resolves when its end is stored. */
  readonly runJob: () => Promise<void>;
  /** Resolves when all these have ended. */
  readonly ended: (ids: readonly string[]) => Promise<void>;
};

/** Engine, SQLite, TSI client and our agent as a process of its own, with `stored` jobs that are over. */
export async function startEngineRig(scope: Scope, stored: number): Promise<EngineRig> {
  const directory = scratch(scope);
  await fillStore(directory, stored, ownerDn);
  const dir = join(directory, 'agent');
  mkdirSync(dir);
  chmodSync(dir, 0o755);
  const agent = await startAgent(scope, { dir });
  const { engine } = await startEngine(scope, directory, agent.socket, { dialsMany: true });
  const over = new Set<string>();
  const waiting = new Map<string, () => void>();
  engine.onChange((job) => {
    if (job.state !== 'DONE') return;
    if (jobStatus(job) !== 'SUCCESSFUL') throw new Error(`a job failed: ${job.log.join('; ')}`);
    over.add(job.id);
    waiting.get(job.id)?.();
  });
  const submit = async (): Promise<string> =>
    (await engine.submit({ ownerDn, targetId, description: trivialJob })).id;
  const end = (id: string): Promise<void> =>
    over.has(id) ? Promise.resolve() : new Promise((resolve) => waiting.set(id, resolve));
  return {
    submit,
    runJob: async () => end(await submit()),
    ended: async (ids) => {
      await Promise.all(ids.map(end));
    },
  };
}

/** Stores jobs that have run and are over, as an engine leaves them. */
export async function fillStore(
  directory: string,
  count: number,
  owner: string,
  service: 'jobs' | 'targetsystem' = 'jobs',
): Promise<void> {
  if (count === 0) return;
  const url = `sqlite:${join(directory, service)}.sqlite`;
  await using database = await openDatabase({ url, log: silentLog });
  const [name, migrations] =
    service === 'jobs'
      ? (['jobs', jobMigrations] as const)
      : (['xnjs', [...targetMigrations, ...jobMigrations]] as const);
  await migrate(database, name, migrations, silentLog);
  const store = createJobStore(database);
  await inFlight(count, 400, (at) => store.insert(finishedJob(owner, at)));
}

export function finishedJob(owner: string, at: number): Job {
  const id = randomUUID();
  const nowMs = systemClock.now() - at * 1_000;
  const texts = [
    "Created with type 'JSON'",
    'Status set to PENDING.',
    'Job directory: /home/grid/jobs/x/',
    'Submitted to TSI with BSSID=123456789012345',
    'Status set to QUEUED.',
    'Status set to RUNNING.',
    'Status set to POSTPROCESSING.',
    'Exit code: 0',
    'Status set to DONE. Result: SUCCESSFUL',
  ];
  return {
    id,
    targetId,
    ownerDn: owner,
    state: 'DONE',
    effects: [],
    name: 'UNICORE_Job',
    jobType: 'BATCH',
    description: trivialJob,
    preferences: {},
    tags: [],
    log: texts.map((text) => logLine(nowMs, text)),
    createdMs: nowMs,
    terminationMs: nowMs + 30 * 86_400_000,
    plan: {
      stagesIn: false,
      stagesOut: false,
      waitsForClient: false,
      executes: true,
      ignoreNonZeroExitCode: false,
      umask: '077',
    },
    directory: `/home/grid/jobs/${id}/`,
    released: false,
    run: {
      number: 1,
      attemptId: `${id}-1`,
      bssId: '123456789012345',
      queue: 'NOBATCH',
      exitCode: 0,
      result: { successful: true, message: '' },
      startedMs: nowMs,
      submittedMs: nowMs,
      mainMs: nowMs,
      endedMs: nowMs,
      doneMs: nowMs,
    },
  };
}
