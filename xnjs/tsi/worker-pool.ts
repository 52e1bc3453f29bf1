import type { Clock } from '#kernel/clock.js';
import { errorText, GridError, type ErrorDetails } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { withDeadline } from '#kernel/net/deadline.js';
import { TsiError } from '#tsi/protocol/error.js';
import type { TsiTransport } from './tsi.js';
import { Worker } from './worker.js';

export type PoolOptions = {
  /** Most workers at a time. */
  readonly workers: number;
  /** How long a call waits for its turn. */
  readonly queueMs: number;
  /** How long a worker may take to come, and to answer a ping. */
  readonly openMs: number;
  /** A worker that rested longer is pinged before it gets work. */
  readonly pingAfterMs: number;
  /** A worker that rested longer is ended; absent: it is kept for as long as it lives. */
  readonly restMs?: number;
  readonly clock: Clock;
  readonly log: Log;
};

type Waiter = { granted: boolean; grant: () => void };

/** Bounded workers of one TSI, given out in the order of asking. */
export class WorkerPool implements AsyncDisposable {
  readonly #transport: TsiTransport;
  readonly #options: PoolOptions;
  readonly #idle: { readonly worker: Worker; readonly sinceMs: number }[] = [];
  readonly #living = new Set<Worker>();
  readonly #queue = new Set<Waiter>();
  readonly #closing = new AbortController();
  #isTidying = false;
  #free: number;

  constructor(transport: TsiTransport, options: PoolOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#free = options.workers;
  }

  /**
   * Runs `work` on a worker of its own for at most `ms`, after which the worker is given up.
   * @throws `TSI_UNAVAILABLE`, what `work` throws, the caller's own reason when its signal fires
   */
  async use<T>(
    ms: number,
    signal: AbortSignal | undefined,
    work: (worker: Worker) => Promise<T>,
  ): Promise<T> {
    await this.#turn(signal);
    let worker: Worker | undefined;
    try {
      worker = await this.#take(signal);
      return await this.#bounded(worker, ms, signal, work);
    } finally {
      if (worker) this.#giveBack(worker);
      this.#passOn();
    }
  }

  close(): void {
    this.#closing.abort(this.#unavailable('it was closed'));
    for (const worker of this.#living) worker.destroy();
    this.#idle.length = 0;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  async #turn(signal: AbortSignal | undefined): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    const late = (): Error => this.#unavailable('no worker is free in time');
    const waiter: Waiter = { granted: false, grant: () => undefined };
    const turn = new Promise<void>((resolve) => {
      waiter.grant = resolve;
      this.#queue.add(waiter);
    });
    try {
      await this.#within(this.#options.queueMs, signal, late, () => turn);
    } catch (error) {
      if (waiter.granted) this.#passOn();
      else this.#queue.delete(waiter);
      throw error;
    }
  }

  #passOn(): void {
    const [next] = this.#queue;
    if (!next) {
      this.#free += 1;
      return;
    }
    this.#queue.delete(next);
    next.granted = true;
    next.grant();
  }

  /** An idle worker that is well, or a new one. */
  async #take(signal: AbortSignal | undefined): Promise<Worker> {
    const { openMs, pingAfterMs, clock } = this.#options;
    this.#closing.signal.throwIfAborted();
    for (let idle = this.#idle.pop(); idle; idle = this.#idle.pop()) {
      const { worker, sinceMs } = idle;
      if (!worker.usable) this.#drop(worker);
      else if (clock.now() - sinceMs < pingAfterMs) return worker;
      else if (await this.#answers(worker, signal)) return worker;
    }
    const late = (): Error => this.#unavailable('no worker comes in time');
    return this.#within(openMs, signal, late, async (until) => {
      const worker = new Worker(await this.#transport.open(until));
      this.#living.add(worker);
      const stop = (): void => this.#drop(worker);
      until.addEventListener('abort', stop, { once: true });
      try {
        until.throwIfAborted();
        await worker.ping();
        return worker;
      } catch (error) {
        this.#drop(worker);
        throw error instanceof GridError ? error : this.#unavailable(errorText(error), error);
      } finally {
        until.removeEventListener('abort', stop);
      }
    });
  }

  async #answers(worker: Worker, signal: AbortSignal | undefined): Promise<boolean> {
    try {
      await this.#bounded(worker, this.#options.openMs, signal, () => worker.ping());
      return true;
    } catch (error) {
      const log = this.#options.log.child({ part: 'xnjs.tsi', tsi: this.#transport.name });
      log.debug({ reason: errorText(error) }, 'a worker did not answer its ping');
      this.#drop(worker);
      signal?.throwIfAborted();
      return false;
    }
  }

  async #bounded<T>(
    worker: Worker,
    ms: number,
    signal: AbortSignal | undefined,
    work: (worker: Worker) => Promise<T>,
  ): Promise<T> {
    const late = (): Error => this.#lost('no answer in time');
    return this.#within(ms, signal, late, async (until) => {
      const stop = (): void => worker.destroy();
      until.addEventListener('abort', stop, { once: true });
      try {
        return await work(worker);
      } catch (error) {
        throw error instanceof GridError ? error : this.#lost(errorText(error), error);
      } finally {
        until.removeEventListener('abort', stop);
      }
    });
  }

  /** With the caller's signal and our own end. */
  #within<T>(
    ms: number,
    signal: AbortSignal | undefined,
    late: () => Error,
    work: (until: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return withDeadline(ms, [signal, this.#closing.signal], late, work);
  }

  #giveBack(worker: Worker): void {
    if (worker.usable && !this.#closing.signal.aborted) {
      this.#idle.push({ worker, sinceMs: this.#options.clock.now() });
      if (this.#options.restMs !== undefined && !this.#isTidying)
        void this.#tidy(this.#options.restMs);
    } else this.#drop(worker);
  }

  /** Ends workers that rest for long, until there are none. */
  async #tidy(restMs: number): Promise<void> {
    const { clock } = this.#options;
    this.#isTidying = true;
    while (this.#idle.length > 0 && !this.#closing.signal.aborted) {
      await clock.sleep(restMs, this.#closing.signal).catch(() => undefined);
      // those that have rested for longest come first
      for (
        let [first] = this.#idle;
        first && clock.now() - first.sinceMs >= restMs;
        [first] = this.#idle
      ) {
        this.#idle.shift();
        this.#drop(first.worker);
      }
    }
    this.#isTidying = false;
  }

  #drop(worker: Worker): void {
    this.#living.delete(worker);
    worker.destroy();
  }

  #unavailable(reason: string, cause?: unknown, details: ErrorDetails = {}): TsiError {
    const { name } = this.#transport;
    const text = `TSI ${name}: ${reason}`;
    return new TsiError('TSI_UNAVAILABLE', text, { tsi: name, ...details }, { cause });
  }

  #lost(reason: string, cause?: unknown): TsiError {
    return this.#unavailable(reason, cause, { workerLost: true });
  }
}

/** Whether a worker was lost over its work, which another may do. */
export function workerLost(error: unknown): boolean {
  return error instanceof TsiError && error.details['workerLost'] === true;
}
