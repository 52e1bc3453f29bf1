import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { Targets } from '../target.js';
import type { BssEntry } from '../tsi/tsi.js';
import { withResolvers } from './with-resolvers.js';

export type Listing = ReadonlyMap<string, BssEntry>;
type Watch = {
  readonly jobId: string;
  readonly run: number;
  readonly bssId: string;
  told?: string;
};
type Waiter = { resolve: (listing: Listing) => void; reject: (reason: unknown) => void };
type Group = {
  readonly watches: Map<string, Watch>;
  waiters: Waiter[];
  newestMs: number;
  /** Ends the pause before the next listing. */
  wake?: AbortController;
};

export type WatcherOptions = {
  readonly targets: Targets;
  readonly clock: Clock;
  readonly log: Log;
  readonly intervalMs: number;
  readonly maxIntervalMs: number;
  /** The batch system's word about a job is new; without an entry, it has the job no longer. */
  readonly onEntry: (jobId: string, run: number, entry: BssEntry | undefined) => Promise<void>;
};

/** How soon after a submission the first listing comes: many jobs are over by then. */
const eagerMs = 25;
const woken = new Error('a job is new');

/** Asks each batch system once per interval for all its jobs, as long as one of them is of interest. */
export class Watcher implements Disposable {
  readonly #options: WatcherOptions;
  readonly #groups = new Map<string, Group>();
  readonly #stopping = new AbortController();

  constructor(options: WatcherOptions) {
    this.#options = options;
  }

  watch(targetId: string, watch: { jobId: string; run: number; bssId: string }): void {
    const group = this.#group(targetId);
    const known = group.watches.get(watch.jobId);
    if (known?.bssId === watch.bssId && known.run === watch.run) return;
    group.watches.set(watch.jobId, { ...watch });
    group.newestMs = this.#options.clock.now();
    group.wake?.abort(woken);
  }

  unwatch(targetId: string, jobId: string): void {
    this.#groups.get(targetId)?.watches.delete(jobId);
  }

  /** The next listing that is asked for after this call. */
  async nextListing(targetId: string, signal: AbortSignal): Promise<Listing> {
    const { promise, resolve, reject } = withResolvers<Listing>();
    const group = this.#group(targetId);
    const waiter: Waiter = { resolve, reject };
    group.waiters.push(waiter);
    const abort = (): void => {
      group.waiters = group.waiters.filter((other) => other !== waiter);
      reject(signal.reason);
    };
    signal.addEventListener('abort', abort, { once: true });
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  [Symbol.dispose](): void {
    this.#stopping.abort(new Error('the job engine is closing'));
    for (const { waiters } of this.#groups.values())
      for (const waiter of waiters) waiter.reject(this.#stopping.signal.reason);
  }

  #group(targetId: string): Group {
    const known = this.#groups.get(targetId);
    if (known) return known;
    const group: Group = { watches: new Map(), waiters: [], newestMs: this.#options.clock.now() };
    this.#groups.set(targetId, group);
    void this.#poll(targetId, group);
    return group;
  }

  async #poll(targetId: string, group: Group): Promise<void> {
    const { clock, maxIntervalMs, log } = this.#options;
    let leastMs = 0;
    let failing = false;
    try {
      for (;;) {
        await this.#pause(group, leastMs);
        if (group.watches.size === 0 && group.waiters.length === 0) break;
        const startMs = clock.now();
        try {
          await this.#askOnce(targetId, group);
          failing = false;
          leastMs = Math.min(4 * (clock.now() - startMs), maxIntervalMs);
        } catch (error) {
          if (!failing) log.info({ vmId: targetId, err: errorText(error) }, 'no status listing');
          failing = true;
          leastMs = maxIntervalMs;
        }
      }
    } catch {
      // stopping
    }
    this.#groups.delete(targetId);
  }

  /** The longer nothing was submitted the longer, up to the interval; and never shorter than `leastMs`. */
  async #pause(group: Group, leastMs: number): Promise<void> {
    const { clock, intervalMs } = this.#options;
    const startMs = clock.now();
    const soonMs = Math.min(eagerMs, intervalMs);
    const wantedMs = Math.min(Math.max(startMs - group.newestMs, soonMs), intervalMs);
    for (let dueMs = startMs + Math.max(leastMs, wantedMs); ;) {
      group.wake = new AbortController();
      using until = linkSignals(group.wake.signal, this.#stopping.signal);
      try {
        await clock.sleep(dueMs - clock.now(), until.signal);
        return;
      } catch (error) {
        if (error !== woken) throw error;
        dueMs = Math.max(startMs + leastMs, Math.min(dueMs, clock.now() + soonMs));
      } finally {
        delete group.wake;
      }
    }
  }

  async #askOnce(targetId: string, group: Group): Promise<void> {
    // Only what was known before the request: a job submitted meanwhile may be missing in the answer.
    const watches = [...group.watches.values()];
    const waiters = group.waiters;
    group.waiters = [];
    let listing: Listing;
    try {
      const target = this.#options.targets.find(targetId);
      if (!target) throw new Error(`there is no target system ${targetId}`);
      listing = await target.tsi().status({ signal: this.#stopping.signal });
    } catch (error) {
      group.waiters.unshift(...waiters);
      throw error;
    }
    for (const waiter of waiters) waiter.resolve(listing);
    for (const watch of watches)
      if (group.watches.get(watch.jobId) === watch) this.#tell(watch, listing.get(watch.bssId));
  }

  #tell(watch: Watch, entry: BssEntry | undefined): void {
    const news = entry ? `${entry.state} ${entry.queue ?? ''}` : 'gone';
    if (watch.told === news) return;
    watch.told = news;
    this.#options.onEntry(watch.jobId, watch.run, entry).catch((error: unknown) => {
      delete watch.told;
      this.#options.log.warn({ jobId: watch.jobId, err: error }, 'status could not be stored');
    });
  }
}
