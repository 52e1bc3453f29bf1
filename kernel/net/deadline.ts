import { setMaxListeners } from 'node:events';

/** A signal that is followed, or a timer that runs, until it is disposed. */
export type Linked = Disposable & { readonly signal: AbortSignal };

/**
 * Like `AbortSignal.any`, which on Node 20 does not keep an `AbortSignal.timeout()` among its sources from
 * being garbage-collected (then the deadline never comes) and never forgets what followed a signal that
 * lives long. A listener keeps the one, and its removal forgets the other.
 */
export function linkSignals(...sources: readonly (AbortSignal | undefined)[]): Linked {
  return follow(new AbortController(), sources);
}

function follow(
  controller: AbortController,
  sources: readonly (AbortSignal | undefined)[],
): Linked {
  const given = sources.filter((source) => source !== undefined);
  // One signal ends as much as it likes: each link is cut in the end. Without a signal the call would be about all
  // emitters of the process, and with 0 Node's own `getMaxListeners`, which fetch calls, takes a signal for none
  if (given.length > 0) setMaxListeners(Infinity, ...given);
  const abort = (event: Event): void => controller.abort((event.target as AbortSignal).reason);
  for (const source of given) {
    if (source.aborted) controller.abort(source.reason);
    source.addEventListener('abort', abort, { once: true });
  }
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const source of given) source.removeEventListener('abort', abort);
    },
  };
}

/** Aborts with `reason()` after `ms`, unless disposed before. */
export function startDeadline(ms: number, reason: () => Error): Linked {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(reason()), ms);
  return { signal: controller.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/**
 * Runs `work` under a signal that fires after `ms`, or with any of the outer ones.
 * @param expired makes the error for the first case
 */
export async function withDeadline<T>(
  ms: number,
  outer: readonly (AbortSignal | undefined)[],
  expired: () => Error,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(expired()), ms);
  using until = follow(controller, outer);
  try {
    return await orAborted(work(until.signal), until.signal);
  } finally {
    clearTimeout(timer);
  }
}

/** The promise, or the signal's reason, whichever is first. What loses is not waited for. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let abort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (abort) signal.removeEventListener('abort', abort);
    aborted.catch(() => undefined);
    promise.catch(() => undefined);
  }
}
