import { jobsOf, type EndsOptions } from './ends.js';
import type { Job } from './job.js';

/** A time that a target system was parked; ms since the epoch. */
export type Parked = { readonly sinceMs: number; readonly untilMs: number };

/**
 * Puts off the ends of life of a target system's jobs by the times that it was parked. May be repeated: each
 * job stores up to when that is settled, in the same step.
 */
export async function putOffJobs(
  options: EndsOptions,
  targetId: string,
  times: readonly Parked[],
): Promise<void> {
  for await (const { id, ...job } of jobsOf(options, targetId))
    if (putOff({ id, ...job }, times).putOffMs !== job.putOffMs)
      await options.amend(id, (now) => putOff(now, times));
}

export function putOff(job: Job, times: readonly Parked[]): Job {
  return times.reduce((before, { sinceMs, untilMs }) => {
    const { putOffMs = 0, createdMs, terminationMs } = before;
    if (untilMs <= putOffMs || untilMs <= createdMs) return before;
    const parkedMs = untilMs - Math.max(sinceMs, createdMs, putOffMs);
    return { ...before, terminationMs: terminationMs + parkedMs, putOffMs: untilMs };
  }, job);
}
