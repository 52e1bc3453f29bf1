import { randomUUID } from 'node:crypto';
import type { JobConfig } from './config.js';
import { jobName, jobTags, parseDescription, type RawDescription } from './description.js';
import type { Job } from './job.js';
import { logLine } from './log-line.js';
import { findSweep } from './sweep.js';

export type NewJob = {
  readonly ownerDn: string;
  readonly targetId: string;
  readonly description: RawDescription;
  readonly preferences?: Job['preferences'];
  /** The job's address for its client, for notifications. */
  readonly urlOf?: (id: string) => string;
};

/** @returns the job as it is stored first, and how many it counts as, with its children */
export function newJob(
  { ownerDn, targetId, description, preferences = {}, urlOf }: NewJob,
  nowMs: number,
  { lifetimeSeconds, sweepLimit }: Pick<JobConfig, 'lifetimeSeconds' | 'sweepLimit'>,
): { job: Job; size: number } {
  const id = randomUUID();
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
    log: [logLine(nowMs, "Created with type 'JSON'")],
    createdMs: nowMs,
    terminationMs: nowMs + lifetimeSeconds * 1_000,
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
