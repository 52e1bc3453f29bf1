import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { withResolvers } from './with-resolvers.js';

type Task = { readonly run: () => Promise<void>; readonly drop: (reason: unknown) => void };
type Lane = { readonly waiting: Task[]; active: number; failures: number; pause?: AbortController };

export type LanesOptions = {
  readonly clock: Clock;
  readonly callsPerTarget: number;
  readonly callsTotal: number;
  readonly retryFirstMs: number;
  readonly retryMaxMs: number;
  /** A target stopped or began again to answer. */
  readonly onTrouble?: (targetId: string, error: GridError) => void;
};

/** Name of the lane for a whole target system, or for a part of it. */
export function laneOf(targetId: string, part?: string): string {
  return part === undefined ? targetId : `${targetId} ${part}`;
}

/**
 * Bounded work, by target system. Work that fails because its target does not answer stays first in its
 * lane; the lane pauses, then sends one task ahead to see, and goes on when that one came through.
 */
export class Lanes implements Disposable {
  readonly #options: LanesOptions;
  readonly #lanes = new Map<string, Lane>();
  #active = 0;
  #closed = false;

  constructor(options: LanesOptions) {
    this.#options = options;
  }

  get load(): { readonly active: number; readonly waiting: number } {
    let waiting = 0;
    for (const lane of this.#lanes.values()) waiting += lane.waiting.length;
    return { active: this.#active, waiting };
  }

  /**
   * @param targetId or {@link laneOf} a part of it
   * @returns what `work` does when it succeeds, or fails for another reason than an unreachable target
   */
  run<T>(targetId: string, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = withResolvers<T>();
    if (this.#closed || signal.aborted) {
      reject(signal.reason ?? new Error('closed'));
      return promise;
    }
    const lane = this.#lane(targetId);
    const task: Task = {
      run: async () => {
        try {
          resolve(await work());
          lane.failures = 0;
        } catch (error) {
          if (isTransient(error) && !signal.aborted && !this.#closed) {
            lane.waiting.unshift(task);
            this.#pause(targetId, lane, error);
          } else reject(error);
        }
      },
      drop: reject,
    };
    const onAbort = (): void => {
      const at = lane.waiting.indexOf(task);
      if (at < 0) return; // the work itself watches the signal
      lane.waiting.splice(at, 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    lane.waiting.push(task);
    this.#pump(targetId, lane);
    const forget = (): void => signal.removeEventListener('abort', onAbort);
    promise.then(forget, forget);
    return promise;
  }

  /** The target answers: whoever waits need not wait longer. */
  resume(targetId: string): void {
    for (const [id, lane] of [...this.#lanes]) {
      if (id !== targetId && !id.startsWith(laneOf(targetId, ''))) continue;
      lane.failures = 0;
      lane.pause?.abort();
      this.#pump(id, lane);
    }
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    for (const lane of this.#lanes.values()) {
      lane.pause?.abort();
      for (const task of lane.waiting.splice(0)) task.drop(new Error('the job engine is closing'));
    }
    this.#lanes.clear();
  }

  #lane(targetId: string): Lane {
    const lane = this.#lanes.get(targetId) ?? { waiting: [], active: 0, failures: 0 };
    this.#lanes.set(targetId, lane);
    return lane;
  }

  #pump(targetId: string, lane: Lane): void {
    const { callsPerTarget, callsTotal } = this.#options;
    const limit = lane.failures > 0 ? 1 : callsPerTarget;
    while (!this.#closed && !lane.pause && lane.active < limit && this.#active < callsTotal) {
      const task = lane.waiting.shift();
      if (!task) break;
      lane.active++;
      this.#active++;
      void task.run().finally(() => {
        lane.active--;
        this.#active--;
        this.#pump(targetId, lane);
        if (this.#active === callsTotal - 1) this.#pumpOthers();
      });
    }
    if (lane.active === 0 && lane.waiting.length === 0 && !lane.pause) this.#lanes.delete(targetId);
  }

  #pumpOthers(): void {
    for (const [id, lane] of [...this.#lanes]) this.#pump(id, lane);
  }

  #pause(targetId: string, lane: Lane, error: GridError): void {
    if (lane.pause) return;
    const { clock, retryFirstMs, retryMaxMs, onTrouble } = this.#options;
    if (lane.failures === 0) onTrouble?.(targetId, error);
    const waitMs = Math.min(retryMaxMs, retryFirstMs * 2 ** Math.min(lane.failures, 20));
    lane.failures++;
    const pause = new AbortController();
    lane.pause = pause;
    const go = (): void => {
      delete lane.pause;
      this.#pump(targetId, lane);
    };
    clock.sleep(waitMs, pause.signal).then(go, go);
  }
}

function isTransient(error: unknown): error is GridError {
  return error instanceof GridError && (error as GridError).row.retry;
}
