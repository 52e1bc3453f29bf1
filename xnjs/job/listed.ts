import type { BssEntry } from '../tsi/tsi.js';
import type { Job } from './job.js';
import type { Place } from './watcher.js';
import type { ListedNews } from './work.js';

/** Where the main run of a job is, and what it is called there. */
export function placeOf(job: Job): { place: Place; id: string } | undefined {
  const { plan, run } = job;
  if (plan?.onLoginNode)
    return run.pid === undefined ? undefined : { place: processPlace(job), id: run.pid };
  return run.bssId === undefined ? undefined : { place: 'batch', id: run.bssId };
}

/** What runs beside the batch system is one of a login node's processes. */
export function processPlace({ run }: Job): Place {
  return run.node === undefined ? 'process' : `process ${run.node}`;
}

/** What the batch system's word means for a job. Held jobs, and those it is not sure of, are no news. */
export function listedNews(entry: BssEntry | undefined): ListedNews | undefined {
  const where = {
    ...(entry?.queue !== undefined && { queue: entry.queue }),
    ...(entry?.rawState !== undefined && { rawState: entry.rawState }),
  };
  switch (entry?.state) {
    case undefined:
    case 'COMPLETED':
      return { type: 'gone' };
    case 'QUEUED':
      return { type: 'queued', ...where };
    case 'RUNNING':
      return { type: 'running', ...where };
    case 'SUSPENDED':
    case 'UNKNOWN':
      return undefined;
  }
}
