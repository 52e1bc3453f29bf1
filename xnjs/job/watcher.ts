import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { linkSignals } from '#kernel/net/deadline.js';
import type { Target, Targets } from '../target.js';
import type { BssEntry } from '../tsi/tsi.js';
import { tsiOn } from './on-node.js';
import { withResolvers } from './with-resolvers.js';

/** Where something runs: in the batch system, or as a process of the login node, which may be one of several. */
export type Place = 'batch' | 'process' | `process ${string}`;
export type Listing = ReadonlyMap<string, BssEntry>;
type Watch = {
  readonly jobId: string;
  readonly run: number;
  readonly place: Place;
  /** The batch system's id, or the pid. */
  readonly id: string;
  /** The batch system's own words are of interest, too: they change more often than the state. */
  readonly raw?: boolean;
  told?: string;
};
type Waiter = {
  readonly place: Place;
  readonly soon: boolean;
  readonly resolve: (listing: Listing) => void;
  readonly reject: (reason: unknown) => void;
};
type Group = {
  readonly watches: Map<string, Watch>;
  waiters: Waiter[];
  /** When something new was last watched, in ms since the epoch. */
  newestMs: number;
  /** Lets the next listing come within so many ms. */
  hurry: (waitMs: number) => void;
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
/** However often somebody is in a hurry, a target is not asked more often. */
const shortestWaitMs = 20;
/** Made once: an error costs a stack trace. */
const hurried = new Error('the next listing is wanted earlier');

/**
 * Asks each batch system once per interval for all its jobs, as long as one of them is of interest; more
 * often after a submission, and at once when a job is said to have ended, or somebody waits for it.
 */
export class Watcher implements Disposable {
  readonly #options: WatcherOptions;
  readonly #groups = new Map<string, Group>();
  readonly #stopping = new AbortController();

  constructor(options: WatcherOptions) {
    this.#options = options;
  }

  watch(targetId: string, watch: Omit<Watch, 'told'>): void {
    const group = this.#group(targetId);
    const known = group.watches.get(watch.jobId);
    if (known?.id === watch.id && known.run === watch.run && known.place === watch.place) return;
    group.watches.set(watch.jobId, { ...watch });
    group.newestMs = this.#options.clock.now();
    group.hurry(eagerMs);
  }

  unwatch(targetId: string, jobId: string): void {
    this.#groups.get(targetId)?.watches.delete(jobId);
  }

  /** The next listing that is asked for after this call; `soon`: which is to be now. */
  async nextListing(
    targetId: string,
    place: Place,
    signal: AbortSignal,
    { soon = true }: { soon?: boolean } = {},
  ): Promise<Listing> {
    const { promise, resolve, reject } = withResolvers<Listing>();
    const group = this.#group(targetId);
    const waiter: Waiter = { place, soon, resolve, reject };
    group.waiters.push(waiter);
    if (soon) group.hurry(0);
    const abort = (): void => {
      group.waiters = group.waiters.filter((other) => other !== waiter);
      reject(signal.reason);
    };
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
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
    const newestMs = this.#options.clock.now();
    const group: Group = { watches: new Map(), waiters: [], newestMs, hurry: () => undefined };
    this.#groups.set(targetId, group);
    void this.#poll(targetId, group);
    return group;
  }

  async #poll(targetId: string, group: Group): Promise<void> {
    const { targets, clock, maxIntervalMs, log } = this.#options;
    const unsubscribe = targets.find(targetId)?.onExit?.(() => group.hurry(0));
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
    unsubscribe?.();
    this.#groups.delete(targetId);
  }

  /**
   * The longer nothing was submitted the longer, up to the interval; and never shorter than `leastMs`.
   * @throws when the watcher stops
   */
  async #pause(group: Group, leastMs: number): Promise<void> {
    const { clock, intervalMs } = this.#options;
    const startMs = clock.now();
    const soonMs = Math.min(eagerMs, intervalMs);
    const wantedMs = Math.min(Math.max(startMs - group.newestMs, soonMs), intervalMs);
    let dueMs = startMs + Math.max(leastMs, wantedMs);
    let waiting = new AbortController();
    group.hurry = (waitMs) => {
      const earliestMs = startMs + Math.max(leastMs, Math.min(shortestWaitMs, intervalMs));
      const wished = Math.max(earliestMs, clock.now() + waitMs);
      if (wished >= dueMs) return;
      dueMs = wished;
      waiting.abort(hurried);
    };
    // who is in a hurry may have come while the last listing was under way
    if (group.waiters.some(({ soon }) => soon)) group.hurry(0);
    for (;;) {
      waiting = new AbortController();
      using until = linkSignals(waiting.signal, this.#stopping.signal);
      try {
        await clock.sleep(Math.max(0, dueMs - clock.now()), until.signal);
        return;
      } catch (error) {
        if (error !== hurried) throw error;
      }
    }
  }

  async #askOnce(targetId: string, group: Group): Promise<void> {
    // Only what was known before the request: a job submitted meanwhile may be missing in the answer.
    const watches = [...group.watches.values()];
    const waiters = group.waiters;
    group.waiters = [];
    const asked = new Set([...watches, ...waiters].map(({ place }) => place));
    const target = this.#options.targets.find(targetId);
    const failures: unknown[] = [];
    for (const place of asked) {
      const isThere = (one: { place: Place }): boolean => one.place === place;
      try {
        if (!target) throw new Error(`there is no target system ${targetId}`);
        const listing = await list(target, place, this.#stopping.signal);
        for (const { resolve } of waiters.filter(isThere)) resolve(listing);
        for (const watch of watches.filter(isThere))
          if (group.watches.get(watch.jobId) === watch) this.#tell(watch, listing.get(watch.id));
      } catch (error) {
        failures.push(error);
        group.waiters.unshift(...waiters.filter(isThere));
      }
    }
    // a login node that is away must not slow down the news of others
    if (failures.length > 0 && failures.length === asked.size) throw failures[0];
  }

  #tell(watch: Watch, entry: BssEntry | undefined): void {
    const raw = watch.raw ? entry?.rawState : undefined;
    const news = entry ? [entry.state, entry.queue, raw].join(' ') : 'gone';
    if (watch.told === news) return;
    watch.told = news;
    this.#options.onEntry(watch.jobId, watch.run, entry).catch((error: unknown) => {
      delete watch.told;
      this.#options.log.warn({ jobId: watch.jobId, err: error }, 'status could not be stored');
    });
  }
}

async function list(target: Target, place: Place, signal: AbortSignal): Promise<Listing> {
  if (place === 'batch') return await target.tsi().status({ signal });
  const node = place === 'process' ? undefined : place.slice('process '.length);
  const pids = await tsiOn(target, node).processes({ signal });
  return new Map([...pids].map((pid) => [String(pid), { state: 'RUNNING' }]));
}
