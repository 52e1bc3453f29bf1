import type { Job } from '../job/job.js';

/** What jobs are kept for: most questions are about one that has just changed. Some MB at most. */
const most = 1_000;
const longestChars = 16_384;

/** Jobs as they were last committed, as long as they are small and nobody changed many others since. */
export class RecentJobs {
  readonly #jobs = new Map<string, Job>();
  /** Grows with each change: what was read before it may be old by now. */
  version = 0;

  find(id: string): Job | undefined {
    return this.#jobs.get(id);
  }

  /** @param sizeChars of its row; absent: it is gone */
  keep(job: Job, sizeChars: number | undefined): void {
    this.forget(job.id);
    if (sizeChars === undefined || sizeChars > longestChars) return;
    this.#jobs.set(job.id, job);
    const [oldest] = this.#jobs.keys();
    if (this.#jobs.size > most && oldest !== undefined) this.#jobs.delete(oldest);
  }

  forget(id: string): void {
    this.version++;
    this.#jobs.delete(id);
  }
}
