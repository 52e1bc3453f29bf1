import type { Log } from '#kernel/log.js';

/** Work that nobody waits for before the engine closes. */
export class Background {
  readonly #log: Log;
  readonly #work = new Set<Promise<unknown>>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** @returns when it has ended, however */
  run(work: Promise<unknown>): Promise<unknown> {
    const watched = work
      .catch((error: unknown) => this.#log.error({ err: error }, 'work in the background failed'))
      .finally(() => this.#work.delete(watched));
    this.#work.add(watched);
    return watched;
  }

  /** Resolves when all has ended that was begun before this. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#work);
  }
}
