import type { Task } from './work.js';

/** The IDB may have parts on the target system, which are asked for only where there are. */
export async function refreshIdb({
  job,
  call,
  options,
}: Pick<Task, 'job' | 'call' | 'options'>): Promise<void> {
  if (options.target(job.targetId).idb?.isStale()) await call(async (_, { idb }) => idb?.refresh());
}
