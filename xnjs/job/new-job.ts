import { randomUUID } from 'node:crypto';
import type { JobConfig } from './config.js';
import { jobName, jobTags, parseDescription, type RawDescription } from './description.js';
import type { Job } from './job.js';
import { logLine } from './log-line.js';
import { findSweep } from './sweep.js';

export type NewJob = {
  /** Where it had to be known before. */
  readonly id?: string;
  readonly ownerDn: string;
  readonly targetId: string;
  readonly description: RawDescription;
  readonly preferences?: Job['preferences'];
  /** The job's address for its client, for notifications. */
  readonly urlOf?: (id: string) => string;
  /** What has been decided about it so far: for its log. */
  readonly remarks?: readonly string[];
};

/** @returns the job as it is stored first, and how many it counts as, with its children */
export function newJob(
  { id = randomUUID(), ownerDn, targetId, description, preferences = {}, urlOf, ...rest }: NewJob,
  nowMs: number,
  config: Pick<JobConfig, 'lifetimeSeconds' | 'maxLifetimeSeconds' | 'sweepLimit'>,
): { job: Job; size: number } {
  const { lifetimeSeconds, maxLifetimeSeconds = lifetimeSeconds, sweepLimit } = config;
  const { children, ...summary } = summarise(description, sweepLimit);
  const job: Job = {
    id,
    targetId,
    ownerDn,
    state: 'CREATED',
    effects: [{ do: 'prepare' }],
    ...summary,
    description,
    preferences,
    log: ["Created with type 'JSON'", ...(rest.remarks ?? [])].map((text) => logLine(nowMs, text)),
    createdMs: nowMs,
    terminationMs: nowMs + Math.min(lifetimeSeconds, maxLifetimeSeconds) * 1_000,
    ...(urlOf && { url: urlOf(id) }),
    released: false,
    run: { number: 1, startedMs: nowMs },
  };
  return { job, size: 1 + children };
}

/** What can be said of a job before its turn comes, if its description is valid. */
function summarise(
  description: RawDescription,
  sweepLimit: number,
): Pick<Job, 'name' | 'jobType' | 'tags'> & { children: number } {
  try {
    const sweep = findSweep(description, sweepLimit);
    const parsed = parseDescription(sweep?.parent ?? description);
    const type = parsed['Job type'];
    return {
      name: jobName(parsed),
      jobType: type === 'RAW' ? 'BATCH' : type,
      tags: jobTags(parsed),
      children: sweep?.values.length ?? 0,
    };
  } catch {
    return { name: 'N/A', jobType: 'n/a', tags: [], children: 0 }; // its preparation will say why
  }
}
