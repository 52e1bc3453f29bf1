import { asGridError, errorText } from '#kernel/errors.js';

/** Lets the other end notice that we hung up, before we call again. */
export const hangUpMs = 250;
/** Two seconds of it: a call that fails at once costs nothing, and a container is up in a fraction of a second. */
const eager = { attempts: 400, waitMs: 5 };
const backOffMs = [50, 100, 250, 500, 1_000];
/** One that was refused may be another the next time, but not soon. */
const refusedMs = 2_000;

/** Before an agent that has not answered so often is called again. */
export function waitAfter(failures: number): number {
  if (failures < eager.attempts) return eager.waitMs;
  return backOffMs[failures - eager.attempts] ?? Math.max(...backOffMs);
}

/** Agents that are being let in at a time. */
const mostAdmitted = 128;
/** One that takes longer keeps nobody waiting: it may not want to be let in. */
const admissionMs = 1_000;

/**
 * The turns of agents that have just answered, of all links: when a server with thousands of machines starts, each is
 * asked who it is, and a session that is held for that is most of what a link ever takes (ADR 038).
 */
export class Admissions {
  readonly #waiting = new Set<() => void>();
  #inside = 0;

  /** Runs `work` when it is its turn. @throws the signal's reason; what `work` does */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#turn(signal);
    let isInside = true;
    const leave = (): void => {
      if (!isInside) return;
      isInside = false;
      this.#inside -= 1;
      const [next] = this.#waiting;
      next?.();
    };
    const timer = setTimeout(leave, admissionMs);
    try {
      return await work();
    } finally {
      clearTimeout(timer);
      leave();
    }
  }

  async #turn(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#inside < mostAdmitted) {
      this.#inside += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const enter = (): void => {
        this.#inside += 1;
        this.#waiting.delete(enter);
        signal.removeEventListener('abort', abandon);
        resolve();
      };
      const abandon = (): void => {
        this.#waiting.delete(enter);
        reject(signal.reason as Error);
      };
      this.#waiting.add(enter);
      signal.addEventListener('abort', abandon, { once: true });
    });
  }
}

export const admissions = new Admissions();

/** We closed a connection that had been made: the other end needs time to see it. */
export class HungUp extends Error {
  readonly waitMs: number;

  constructor(cause: unknown) {
    super(errorText(cause), { cause });
    this.waitMs = asGridError(cause)?.code === 'FORBIDDEN' ? refusedMs : hangUpMs;
  }
}
