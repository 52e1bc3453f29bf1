import { GridError } from '#kernel/errors.js';
import type { Clock } from '#kernel/clock.js';

/** How long a measurement is believed, while others may write there too. */
const staleMs = 10 * 60_000;

/** The bytes that one user may have in a directory of the host: measured once, then counted. */
export class Quota {
  readonly #limitBytes: number;
  readonly #measure: () => Promise<number>;
  readonly #clock: Clock;
  #usedBytes = 0;
  #measuredMs: number | undefined;
  #measuring: Promise<void> | undefined;

  constructor(limitBytes: number, measure: () => Promise<number>, clock: Clock) {
    this.#limitBytes = limitBytes;
    this.#measure = measure;
    this.#clock = clock;
  }

  /** Before the first `take`. @returns bytes that are left */
  async left(): Promise<number> {
    const age = this.#clock.now() - (this.#measuredMs ?? -Infinity);
    if (age > staleMs)
      await (this.#measuring ??= this.#remeasure().finally(() => (this.#measuring = undefined)));
    return Math.max(0, this.#limitBytes - this.#usedBytes);
  }

  /** @throws `STORAGE_FULL`, and nothing is taken */
  take(bytes: number): void {
    if (this.#usedBytes + bytes > this.#limitBytes)
      throw new GridError(
        'STORAGE_FULL',
        `the limit of ${this.#limitBytes} bytes for your files here is reached`,
      );
    this.#usedBytes += bytes;
  }

  give(bytes: number): void {
    this.#usedBytes = Math.max(0, this.#usedBytes - bytes);
  }

  async #remeasure(): Promise<void> {
    this.#usedBytes = await this.#measure();
    this.#measuredMs = this.#clock.now();
  }
}
