import type { Clock } from '#kernel/clock.js';
import { silenceOf, type SilenceOptions } from '../tsi/silence.js';
import type { TargetSystem } from './target-system.js';

export type ExpectedAgentsOptions = SilenceOptions & {
  readonly clock: Clock;
  readonly stopping: AbortSignal;
  /** Its time is over, whether or not it has answered. */
  readonly onOver: (record: TargetSystem) => void;
};

/** Agents that are waited for as long as they may be silent: one wait for all, as a server that starts expects all. */
export class ExpectedAgents {
  readonly #options: ExpectedAgentsOptions;
  /** The first of them first. */
  readonly #waiting = new Map<
    string,
    { readonly record: TargetSystem; readonly untilMs: number }
  >();

  constructor(options: ExpectedAgentsOptions) {
    this.#options = options;
  }

  add(record: TargetSystem): void {
    if (this.#waiting.has(record.id)) return;
    const isFirst = this.#waiting.size === 0;
    const untilMs = this.#options.clock.now() + silenceOf(this.#options);
    this.#waiting.set(record.id, { record, untilMs });
    if (isFirst) void this.#wait();
  }

  /** Until none is left. Never fails. */
  async #wait(): Promise<void> {
    const { clock, stopping, onOver } = this.#options;
    for (const [id, { record, untilMs }] of this.#waiting) {
      const leftMs = untilMs - clock.now();
      if (leftMs > 0) await clock.sleep(leftMs, stopping).catch(() => undefined);
      if (stopping.aborted) return;
      this.#waiting.delete(id);
      onOver(record);
    }
  }
}
