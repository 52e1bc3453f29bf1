/** Longer, and others who wait for this process would notice. */
const slowMs = 5;
/** How long the calls after a slow one are made by the thread pool. */
const restMs = 2_000;

/**
 * Reads and writes of the page cache cost less than to have another thread do them, those of a disk that
 * is busy hold up everybody. Which it will be, the calls before tell.
 */
export class Pace {
  #slowUntilMs = 0;

  /** @param now the same as `later`, by this thread */
  run(now: () => number, later: () => Promise<number>): number | Promise<number> {
    const startedMs = performance.now();
    if (startedMs < this.#slowUntilMs) return later();
    try {
      return now();
    } finally {
      const endedMs = performance.now();
      if (endedMs - startedMs > slowMs) this.#slowUntilMs = endedMs + restMs;
    }
  }
}
