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

/** Agents that are let in in a second, and those that are not kept waiting before. */
const admitted = { perSecond: 500, atOnce: 50 };

/**
 * Of all links: when a server with thousands of machines starts, their agents answer all at once, and each is asked
 * who it is (ADR 038).
 */
export class Admissions {
  readonly #everyMs = 1_000 / admitted.perSecond;
  #nextMs = 0;

  /** @returns how long the next one waits */
  turnMs(nowMs: number): number {
    const earliest = nowMs - admitted.atOnce * this.#everyMs;
    this.#nextMs = Math.max(this.#nextMs + this.#everyMs, earliest);
    return Math.max(0, this.#nextMs - nowMs);
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
