/** A signal that aborts with the first of others, until it is disposed. */
export type Linked = Disposable & { readonly signal: AbortSignal };

/**
 * Like `AbortSignal.any`, which on Node 20 does not keep an `AbortSignal.timeout()` among its sources from
 * being garbage-collected: then the deadline never comes. A listener does keep it.
 */
export function linkSignals(...sources: readonly (AbortSignal | undefined)[]): Linked {
  const controller = new AbortController();
  const given = sources.filter((source) => source !== undefined);
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
