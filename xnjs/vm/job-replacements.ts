import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { JobEngine } from '../job/engine.js';
import type { TargetSystems } from './target-systems.js';

export type JobReplacementsOptions = {
  readonly systems: Pick<TargetSystems, 'list' | 'get' | 'subscribe' | 'jobsSettled'>;
  readonly jobs: Pick<JobEngine, 'machineReplaced'>;
  readonly clock: Clock;
  readonly log: Log;
};

const retryMs = 1_000;

/**
 * Settles what becomes of the jobs of a machine that another has taken the place of: that this is to be done
 * stands in the target system's record until it is.
 */
export class JobReplacements implements AsyncDisposable {
  readonly #options: JobReplacementsOptions;
  readonly #closing = new AbortController();
  readonly #running = new Set<Promise<void>>();
  #ignore: () => void = () => undefined;

  constructor(options: JobReplacementsOptions) {
    this.#options = options;
  }

  /** After the jobs are there. */
  start(): void {
    const { systems } = this.#options;
    this.#ignore = systems.subscribe(({ type, targetId }) => {
      if (type === 'replaced') this.#begin(targetId);
    });
    for (const { id, lostJobs } of systems.list()) if (lostJobs !== undefined) this.#begin(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ignore();
    this.#closing.abort();
    await Promise.allSettled(this.#running);
  }

  #begin(id: string): void {
    const work = this.#settle(id).finally(() => this.#running.delete(work));
    this.#running.add(work);
  }

  async #settle(id: string): Promise<void> {
    const { systems, jobs, clock, log } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted)
      try {
        const { lostJobs } = systems.get(id);
        if (lostJobs === undefined) return;
        await jobs.machineReplaced(id, lostJobs);
        await systems.jobsSettled(id);
        return;
      } catch (error) {
        log.warn({ vmId: id, err: errorText(error) }, 'jobs of a machine could not be settled');
        if (!systems.list().some((system) => system.id === id)) return;
        await clock.sleep(retryMs, signal).catch(() => undefined);
      }
  }
}
