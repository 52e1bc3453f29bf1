import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';

/** What has a lifetime, all of one kind. */
export type Mortals = {
  /** For the log. */
  readonly what: string;
  /** Ids of those whose life time is over by their own record: never of those that could not be looked at. */
  readonly expired: (nowMs: number) => Iterable<string>;
  /** Ends one, durably; done again, it ends the same. */
  readonly end: (id: string) => Promise<unknown>;
};

export type ReaperOptions = {
  readonly clock: Clock;
  readonly log: Log;
  readonly intervalMs: number;
};

/** Ends what has outlived its termination time. What fails is tried again at the next turn. */
export class Reaper implements AsyncDisposable {
  readonly #options: ReaperOptions;
  readonly #mortals: readonly Mortals[];
  readonly #closing = new AbortController();
  #running: Promise<void> = Promise.resolve();

  constructor(options: ReaperOptions, ...mortals: readonly Mortals[]) {
    this.#options = options;
    this.#mortals = mortals;
  }

  start(): void {
    this.#running = this.#run().catch((error: unknown) => {
      if (!this.#closing.signal.aborted)
        this.#options.log.error({ err: error }, 'expired resources are no longer ended');
    });
  }

  /** One turn. */
  async reap(): Promise<void> {
    const { clock, log } = this.#options;
    for (const { what, expired, end } of this.#mortals)
      for (const id of [...expired(clock.now())])
        await end(id).catch((error: unknown) =>
          log.error({ id, what, err: error }, 'an expired resource could not be ended'),
        );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, intervalMs } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await this.reap();
      await clock.sleep(intervalMs, signal);
    }
  }
}
