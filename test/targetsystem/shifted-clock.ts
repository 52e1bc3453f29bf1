import { systemClock, type Clock } from '#kernel/clock.js';
import { linkSignals } from '#kernel/net/deadline.js';

/** The time as it is, until a test puts it forward: what slept beyond that wakes up. */
export class ShiftedClock implements Clock {
  #shiftMs = 0;
  readonly #wakers = new Set<() => void>();

  now(): number {
    return systemClock.now() + this.#shiftMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const until = this.now() + ms;
    for (let left = ms; left > 0; left = until - this.now()) {
      const woken = new AbortController();
      const wake = (): void => woken.abort();
      this.#wakers.add(wake);
      using either = linkSignals(signal, woken.signal);
      await systemClock.sleep(left, either.signal).catch(() => undefined);
      this.#wakers.delete(wake);
      signal?.throwIfAborted();
    }
  }

  advance(ms: number): void {
    this.#shiftMs += ms;
    for (const wake of [...this.#wakers]) wake();
  }
}
