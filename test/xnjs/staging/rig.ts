import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Scope } from '#kernel/scope.js';
import type { Job } from '#xnjs/job/job.js';
import type { JobStore } from '#xnjs/job/store.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import type { Staging } from '#xnjs/staging/staging.js';
import type { Target, Targets } from '#xnjs/target.js';
import type { Tsi } from '#xnjs/tsi/tsi.js';
import { Agent, identity, linkTo, openStore, scratch, targetId, until } from '../job/rig.js';
import { aJob, aPlan } from '../job/samples.js';
import { spaceOf, stagingOf, type Wiring } from './wiring.js';

export const ownerDn = 'CN=Tester,O=Grid';

export const secondTargetId = '22222222-2222-4222-8222-222222222222';
export const strangersTargetId = '33333333-3333-4333-8333-333333333333';

export type StagingRig = {
  readonly directory: string;
  readonly agent: Agent;
  readonly tsi: () => Tsi;
  readonly jobs: JobStore;
  readonly staging: Staging;
  /** A job whose directory exists. */
  readonly makeJob: (
    description: object,
    change?: { targetId?: string; ownerDn?: string },
  ) => Promise<Job>;
  readonly stage: (
    job: Job,
    direction: 'in' | 'out',
    signal?: AbortSignal,
  ) => Promise<readonly string[]>;
  /** Makes a job and does its imports. */
  readonly imports: (entries: readonly object[]) => Promise<{ job: Job; log: readonly string[] }>;
  readonly path: (job: Job, name: string) => string;
  readonly read: (job: Job, name: string) => string;
};

export type StagingRigOptions = Pick<Wiring, 'config' | 'trust' | 'onBehalfOf'>;

/** Agent, SQLite and staging, all real; the engine is not. */
export async function startStaging(
  scope: Scope,
  options: StagingRigOptions = {},
  directory = scratch(scope),
): Promise<StagingRig> {
  const agent = new Agent(directory);
  scope.defer(() => agent.kill());
  await agent.start();
  return { agent, ...(await attachStaging(scope, directory, agent.socket, options)) };
}

/** Staging on a directory and an agent that are there already. */
export async function attachStaging(
  scope: Scope,
  directory: string,
  socket: string,
  options: StagingRigOptions = {},
): Promise<Omit<StagingRig, 'agent'>> {
  const { link, tsi } = linkTo(scope, socket);
  await until('link is up', () => link.state === 'up');
  const database = await openStore(scope, directory);
  const jobs = createJobStore(database);
  const limits = { cpus: 4, memoryBytes: 2 * 1024 ** 3 };
  const common = {
    identity,
    applications: [],
    limits,
    tsi,
    jobsDirectory: join(directory, 'jobs'),
  };
  const known = new Map<string, Target>([
    [targetId, { id: targetId, ownerDn, ...common }],
    [secondTargetId, { id: secondTargetId, ownerDn, ...common }],
    [strangersTargetId, { id: strangersTargetId, ownerDn: 'CN=Stranger', ...common }],
  ]);
  const targets: Targets = { find: (id) => known.get(id), subscribe: () => () => undefined };
  const staging = stagingOf(scope, directory, { targets, database, ...options });
  await mkdir(join(directory, 'staging'), { recursive: true });

  const makeJob: StagingRig['makeJob'] = async (description, change) => {
    const job = aJob({
      id: randomUUID(),
      targetId,
      ownerDn,
      plan: aPlan,
      description: { ...description },
      ...change,
    });
    await jobs.insert(job);
    const target = known.get(job.targetId)!;
    await tsi().execute(target.identity, `umask 022; mkdir -p ${target.jobsDirectory}/${job.id}`);
    return job;
  };
  const stage: StagingRig['stage'] = async (
    job,
    direction,
    signal = new AbortController().signal,
  ) => {
    const target = known.get(job.targetId)!;
    const site = { files: spaceOf(target, job.id), tsi, target };
    return (await staging.stage(job, direction, site, signal)).log;
  };
  const path = (job: Job, name: string): string => join(directory, 'jobs', job.id, name);
  return {
    ...{ directory, tsi, jobs, staging, makeJob, stage, path },
    imports: async (entries) => {
      const job = await makeJob({ Imports: entries });
      return { job, log: await stage(job, 'in') };
    },
    read: (job, name) => readFileSync(path(job, name), 'utf8'),
  };
}
