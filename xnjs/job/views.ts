import type { Clock } from '#kernel/clock.js';
import { withoutCredentials } from '../staging/entries.js';
import { withoutInlineData } from './description.js';
import type { JobEvent } from './events.js';
import type { Job } from './job.js';
import { TargetLost } from './work.js';

const views = new WeakMap<Job, Job>();

/** A job as others may see it. Of one record it is one object: a change makes another record. */
export function shown(job: Job): Job {
  const known = views.get(job);
  if (known) return known;
  const view = { ...job, description: withoutCredentials(withoutInlineData(job.description)) };
  views.set(job, view);
  return view;
}

/** Late news of a job that has ended, or runs once more, are none. */
export function withProgress(job: Job, run: number, progress: number): Job {
  const { number, progress: known } = job.run;
  if (job.state !== 'RUNNING' || number !== run || known === progress) return job;
  return { ...job, run: { ...job.run, progress } };
}

export function lostEvent(
  targetId: string,
  reason: string,
  clock: Clock,
): Extract<JobEvent, { type: 'lost' }> {
  return { type: 'lost', atMs: clock.now(), reason: new TargetLost(targetId, reason).message };
}
