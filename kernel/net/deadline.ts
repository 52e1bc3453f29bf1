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
  const control = new AbortController();
  const followed = outer.filter((signal) => signal !== undefined);
  const follow = (): void => control.abort(followed.find(({ aborted }) => aborted)?.reason);
  if (followed.some(({ aborted }) => aborted)) follow();
  for (const signal of followed) signal.addEventListener('abort', follow, { once: true });
  const timer = setTimeout(() => control.abort(expired()), ms);
  try {
    return await orAborted(work(control.signal), control.signal);
  } finally {
    clearTimeout(timer);
    for (const signal of followed) signal.removeEventListener('abort', follow);
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
