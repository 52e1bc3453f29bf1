import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { JobEngine } from '../job/engine.js';
import { isUsable } from './state.js';
import type { TargetSystem } from './target-system.js';
import type { TargetSystems } from './target-systems.js';

export type JobSettlementsOptions = {
  readonly systems: Pick<TargetSystems, 'list' | 'get' | 'subscribe' | 'settled'>;
  readonly jobs: Pick<JobEngine, 'machineReplaced' | 'machineReverted' | 'tidyReverted' | 'putOff'>;
  readonly clock: Clock;
  readonly log: Log;
};

const retryMs = 1_000;

/**
 * Settles what becomes of jobs when their machine is replaced by another, put back to an earlier moment, or was
 * parked: that this is to be done stands in the target system's record until it is.
 */
export class JobSettlements implements AsyncDisposable {
  readonly #options: JobSettlementsOptions;
  readonly #closing = new AbortController();
  /** By target system. */
  readonly #running = new Map<string, Promise<void>>();
  #ignore: () => void = () => undefined;

  constructor(options: JobSettlementsOptions) {
    this.#options = options;
  }

  /** After the jobs are there. */
  start(): void {
    const { systems } = this.#options;
    this.#ignore = systems.subscribe(({ type, targetId }) => {
      if (type === 'replaced' || type === 'ready') this.#begin(targetId);
    });
    for (const { id } of systems.list()) this.#begin(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ignore();
    this.#closing.abort();
    await Promise.allSettled(this.#running.values());
  }

  /** After what is under way for it. */
  #begin(id: string): void {
    const before = this.#running.get(id) ?? Promise.resolve();
    const work = before
      .then(() => this.#settle(id))
      .finally(() => {
        if (this.#running.get(id) === work) this.#running.delete(id);
      });
    this.#running.set(id, work);
  }

  async #settle(id: string): Promise<void> {
    const { systems, clock, log } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted)
      try {
        const done = await this.#settleOne(systems.get(id));
        if (!done) return;
        await systems.settled(id, done);
      } catch (error) {
        if (!systems.list().some((system) => system.id === id)) return;
        log.warn({ vmId: id, err: errorText(error) }, 'jobs of a machine could not be settled');
        await clock.sleep(retryMs, signal).catch(() => undefined);
      }
  }

  /** @returns what has been; `undefined`: nothing is to be, or not yet */
  async #settleOne(system: TargetSystem): Promise<Settled | undefined> {
    const { jobs } = this.#options;
    const { id, lostJobs, generation = 1, recoveredMs = [], reverted, putOff } = system;
    if (lostJobs !== undefined) {
      const atMs = recoveredMs.at(-1) ?? Infinity;
      await jobs.machineReplaced({ targetId: id, reason: lostJobs, generation, atMs });
      return { lostJobs, generation };
    }
    if (putOff) {
      await jobs.putOff(id, putOff);
      return { putOff };
    }
    if (reverted?.step === 'tell') await jobs.machineReverted({ targetId: id, ...reverted });
    else if (!reverted || !isUsable(system)) return undefined;
    else await jobs.tidyReverted({ targetId: id, ...reverted });
    return { reverted };
  }
}

/** What of a record was settled, as it was when that began. */
export type Settled = Pick<TargetSystem, 'lostJobs' | 'generation' | 'putOff' | 'reverted'>;
