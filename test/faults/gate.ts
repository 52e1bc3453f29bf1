import type { Job } from '#xnjs/job/job.js';
import type { JobStore } from '#xnjs/job/store.js';

/**
 * A point in the life of a job: `after QUEUED`, the state has just been stored and nothing has been done
 * about it; `before QUEUED`, what leads there has been done and is not stored yet.
 */
export type Point = `${'before' | 'after'} ${string}`;

/** What happens at a point. Work done before a state is stored cannot wait: it is inside a transaction. */
export type Gate = {
  readonly before: (state: string, jobId: string) => void;
  readonly after: (state: string, jobId: string) => Promise<void>;
};

/** A store that stops at the points of each job. */
export function gated(store: JobStore, gate: Gate): JobStore {
  return {
    ...store,
    async insert(job) {
      gate.before(job.state, job.id);
      await store.insert(job);
      await gate.after(job.state, job.id);
    },
    async change(id, change) {
      let entered: string | undefined;
      const job = await store.change(id, (from: Job) => {
        const to = change(from);
        entered = to.state === from.state ? undefined : to.state;
        if (entered !== undefined) gate.before(entered, id);
        return to;
      });
      if (entered !== undefined) await gate.after(entered, id);
      return job;
    },
  };
}
