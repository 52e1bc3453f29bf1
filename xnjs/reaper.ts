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

/** Of a processor's time, that looking for it may take where there is much… */
const share = 0.003;
/** … but it is not left for longer than this. */
const longestMs = 10_000;

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

  /** One turn. @returns how long it was looked for what has expired, in ms */
  async reap(): Promise<number> {
    const { clock, log } = this.#options;
    let lookedMs = 0;
    for (const { what, expired, end } of this.#mortals) {
      const beganMs = performance.now();
      const ids = [...expired(clock.now())];
      lookedMs += performance.now() - beganMs;
      for (const id of ids)
        await end(id).catch((error: unknown) =>
          log.error({ id, what, err: error }, 'an expired resource could not be ended'),
        );
    }
    return lookedMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, intervalMs } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const lookedMs = await this.reap();
      await clock.sleep(Math.max(intervalMs, Math.min(lookedMs / share, longestMs)), signal);
    }
  }
}
