import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Change, ChangeBounds, ChangeLog } from './change-log.js';

export type { Change } from './change-log.js';

export type ChangeFeedOptions = {
  readonly changes: Pick<ChangeLog, 'read' | 'ends' | 'prune'>;
  readonly bounds: ChangeBounds;
  readonly clock: Clock;
  readonly log: Log;
};

const pruneMs = 60_000;
const retryMs = 1_000;
const readAtOnce = 500;
/** Kept in memory for those who follow: they all ask for the same. */
const mostRecent = 2_000;

/**
 * A change log as its readers see it: each asks for what follows the last that it has, as fast as it can
 * take it, and is told when there is more. Nobody who follows: nothing is read.
 */
export class ChangeFeed implements Disposable {
  readonly #options: ChangeFeedOptions;
  readonly #listeners = new Set<() => void>();
  readonly #closing = new AbortController();
  /** All of `(from, head]`, while somebody follows. */
  #recent: Change[] = [];
  #from = Infinity;
  #head = -Infinity;
  #reading = false;
  #again = false;

  constructor(options: ChangeFeedOptions) {
    this.#options = options;
    void this.#prune();
  }

  /** To be called after commits. */
  wake(): void {
    if (this.#listeners.size === 0) return;
    this.#again = true;
    if (!this.#reading) void this.#follow();
  }

  /** @returns ends it */
  onMore(listener: () => void): () => void {
    this.#listeners.add(listener);
    this.wake();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#forget();
    };
  }

  /** Where somebody begins who wants what is new. */
  async newest(): Promise<number> {
    return (await this.#options.changes.ends()).newest;
  }

  /**
   * What follows `seq`, the oldest first.
   * @returns `undefined`: some of it is forgotten, or `seq` is of another log
   */
  async after(seq: number, num: number): Promise<readonly Change[] | undefined> {
    if (seq >= this.#from && seq <= this.#head) {
      const at = this.#recent.findIndex((change) => change.seq > seq);
      return at < 0 ? [] : this.#recent.slice(at, at + num);
    }
    const { changes } = this.#options;
    const found = await changes.read(seq, num);
    // asked for afterwards: what was forgotten meanwhile is not missed
    const { oldest, newest } = await changes.ends();
    if (seq < oldest - 1 || seq > newest) return undefined;
    return found;
  }

  [Symbol.dispose](): void {
    this.#closing.abort();
    this.#listeners.clear();
    this.#forget();
  }

  #forget(): void {
    [this.#recent, this.#from, this.#head] = [[], Infinity, -Infinity];
  }

  async #follow(): Promise<void> {
    this.#reading = true;
    while (this.#again && !this.#closing.signal.aborted && this.#listeners.size > 0) {
      this.#again = false;
      try {
        await this.#read();
      } catch (error) {
        this.#again = true;
        await this.#failed(error);
      }
    }
    this.#reading = false;
  }

  async #failed(error: unknown): Promise<void> {
    const { log, clock } = this.#options;
    const { signal } = this.#closing;
    if (signal.aborted) return;
    log.error({ err: error }, 'the change log could not be read, trying again');
    await clock.sleep(retryMs, signal).catch(() => undefined);
  }

  async #read(): Promise<void> {
    const { changes } = this.#options;
    if (this.#head < 0) {
      const { newest } = await changes.ends();
      [this.#recent, this.#from, this.#head] = [[], newest, newest];
    }
    const found = await changes.read(this.#head, readAtOnce);
    const last = found.at(-1);
    if (last && this.#head > 0) {
      this.#recent.push(...found);
      this.#head = last.seq;
      const dropped = this.#recent.splice(0, Math.max(0, this.#recent.length - mostRecent));
      this.#from = dropped.at(-1)?.seq ?? this.#from;
    }
    if (found.length === readAtOnce) this.#again = true;
    for (const listener of this.#listeners) listener();
  }

  async #prune(): Promise<void> {
    const { changes, bounds, clock, log } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await changes.prune(bounds, clock.now()).catch((error: unknown) => {
        if (!signal.aborted) log.warn({ err: error }, 'the change log could not be shortened');
      });
      await clock.sleep(pruneMs, signal).catch(() => undefined);
    }
  }
}
