import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import { JobError } from './errors.js';
import type { JobEvent } from './events.js';
import type { Job } from './job.js';
import { withNotices } from './notices.js';
import { matchesPattern } from './pattern.js';
import { step } from './state.js';
import type { JobStore } from './store.js';
import type { Effect } from './transitions.js';

export type JobChangesOptions = {
  readonly store: Pick<JobStore, 'change'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly closing: AbortSignal;
  /** Does what a step asks for that has just been stored. */
  readonly follow: (before: Job, after: Job, entered: readonly Effect[]) => void;
};

/** A database that is away or full: short enough that no job waits noticeably once it is back. */
const storeRetryMs = 1_000;

/** Stores what becomes of jobs; then only does anybody hear of it. */
export class JobChanges {
  readonly #options: JobChangesOptions;
  readonly #listeners = new Set<(job: Job) => void>();

  constructor(options: JobChangesOptions) {
    this.#options = options;
  }

  /** Called with each new version of a job, after it has been stored. @returns ends it */
  onChange(listener: (job: Job) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  announce(job: Job): void {
    for (const listener of this.#listeners) listener(job);
  }

  /** A step of the job's life. State and effects land in one transaction. */
  async apply(id: string, event: JobEvent): Promise<Job> {
    const { store, log, follow } = this.#options;
    let before: Job | undefined;
    let entered: readonly Effect[] = [];
    const after = await store.change(id, (job) => {
      before = job;
      const next = step(job, event);
      entered = next.effects;
      return withNotices(job, next.job, matchesPattern);
    });
    if (after === before || before === undefined) return after;
    // Nothing is awaited from here on: the store answers in the order in which it stored, and what follows a
    // change must not be overtaken by what follows a later one of the same job.
    if (after.state !== before.state)
      log.debug({ jobId: id, from: before.state, to: after.state }, 'job changed');
    this.announce(after);
    follow(before, after, entered);
    return after;
  }

  /** Like `apply`, for news that nobody waits for: kept until they are stored. */
  async tell(id: string, event: JobEvent): Promise<void> {
    const { clock, log, closing } = this.#options;
    while (!closing.aborted) {
      try {
        await this.apply(id, event);
        return;
      } catch (error) {
        if (error instanceof JobError) {
          if (error.code !== 'JOB_UNKNOWN')
            log.error({ jobId: id, err: error }, 'news of a job dropped');
          return;
        }
        log.error({ jobId: id, err: error }, 'news of a job could not be stored, trying again');
        await clock.sleep(storeRetryMs, closing).catch(() => undefined);
      }
    }
  }

  /** What is no step of the job's life. @returns nothing if there is no such job any more */
  async amend(id: string, change: (job: Job) => Job): Promise<Job | undefined> {
    try {
      const job = await this.#options.store.change(id, change);
      this.announce(job);
      return job;
    } catch (error) {
      if (error instanceof JobError && error.code === 'JOB_UNKNOWN') return undefined;
      throw error;
    }
  }

  /**
   * Stores the login node of a run, unless it has one. Nothing is started before this is stored, and a full
   * disk fails no job.
   * @returns the one that it has
   */
  async settle({ id, run }: Job, node: string): Promise<string> {
    const { clock, log, closing } = this.#options;
    const change = (now: Job): Job =>
      now.run.number !== run.number || now.run.node !== undefined
        ? now
        : { ...now, run: { ...now.run, node } };
    for (;;) {
      try {
        return (await this.amend(id, change))?.run.node ?? node;
      } catch (error) {
        log.error({ jobId: id, err: error }, 'a login node could not be stored, trying again');
        await clock.sleep(storeRetryMs, closing);
      }
    }
  }
}
