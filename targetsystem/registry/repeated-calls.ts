import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';

export type Status = 'OK' | 'DOWN' | 'UNKNOWN';

/** What somebody elsewhere has to be told again and again. */
export type RepeatedCall = {
  /** As the base resource shows it. */
  readonly name: string;
  readonly url: string;
  /** Sentences of the log, at each change. */
  readonly says: { readonly ok: string; readonly failed: string };
  readonly longestRetryMs: number;
  /** @returns when to come again, in ms */
  readonly call: (signal: AbortSignal) => Promise<number>;
};

export type RepeatedCallsOptions = {
  readonly calls: readonly RepeatedCall[];
  readonly clock: Clock;
  readonly log: Log;
};

const firstRetryMs = 5_000;

/** Each at its own intervals; one that fails is tried again at growing ones, and keeps nobody waiting. */
export class RepeatedCalls implements AsyncDisposable {
  readonly #options: RepeatedCallsOptions;
  readonly #status = new Map<string, Status>();
  readonly #closing = new AbortController();
  readonly #loops: Promise<void>[];

  constructor(options: RepeatedCallsOptions) {
    this.#options = options;
    for (const { name } of options.calls) this.#status.set(name, 'UNKNOWN');
    this.#loops = options.calls.map((each) => this.#repeat(each));
  }

  /** By name, as the base resource shows them. */
  status(): Record<string, Status> {
    return Object.fromEntries(this.#status);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#loops);
  }

  async #repeat({ name, url, says, longestRetryMs, call }: RepeatedCall): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#closing;
    let failures = 0;
    while (!signal.aborted) {
      let waitMs: number;
      try {
        waitMs = await call(signal);
        if (this.#status.get(name) !== 'OK') log.info({ peer: url }, says.ok);
        this.#status.set(name, 'OK');
        failures = 0;
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        if (failures === 0) log.warn({ peer: url, err: errorText(error) }, says.failed);
        this.#status.set(name, 'DOWN');
        waitMs = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(failures, 16));
        failures += 1;
      }
      await clock.sleep(waitMs, signal).catch(() => undefined);
    }
  }
}
