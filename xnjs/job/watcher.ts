import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
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
type Group = { readonly watches: Map<string, Watch>; waiters: Waiter[] };

export type WatcherOptions = {
  readonly targets: Targets;
  readonly clock: Clock;
  readonly log: Log;
  readonly intervalMs: number;
  readonly maxIntervalMs: number;
  /** The batch system's word about a job is new; without an entry, it has the job no longer. */
  readonly onEntry: (jobId: string, run: number, entry: BssEntry | undefined) => Promise<void>;
};

/** Asks each batch system once per interval for all its jobs, as long as one of them is of interest. */
export class Watcher implements Disposable {
  readonly #options: WatcherOptions;
  readonly #groups = new Map<string, Group>();
  readonly #stopping = new AbortController();

  constructor(options: WatcherOptions) {
    this.#options = options;
  }

  watch(targetId: string, watch: { jobId: string; run: number; bssId: string }): void {
    const { watches } = this.#group(targetId);
    const known = watches.get(watch.jobId);
    if (known?.bssId !== watch.bssId || known.run !== watch.run)
      watches.set(watch.jobId, { ...watch });
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
    const group: Group = { watches: new Map(), waiters: [] };
    this.#groups.set(targetId, group);
    void this.#poll(targetId, group);
    return group;
  }

  async #poll(targetId: string, group: Group): Promise<void> {
    const { clock, intervalMs, maxIntervalMs, log } = this.#options;
    let waitMs = intervalMs;
    let failing = false;
    try {
      for (;;) {
        await clock.sleep(waitMs, this.#stopping.signal);
        if (group.watches.size === 0 && group.waiters.length === 0) break;
        const startMs = clock.now();
        try {
          await this.#askOnce(targetId, group);
          failing = false;
          waitMs = Math.min(Math.max(intervalMs, 4 * (clock.now() - startMs)), maxIntervalMs);
        } catch (error) {
          if (!failing) log.info({ vmId: targetId, err: errorText(error) }, 'no status listing');
          failing = true;
          waitMs = maxIntervalMs;
        }
      }
    } catch {
      // stopping
    }
    this.#groups.delete(targetId);
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
