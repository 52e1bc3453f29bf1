/** A deadline that starts anew whenever something is heard. */
export type Silence = Disposable & { readonly signal: AbortSignal; readonly heard: () => void };

/** Aborts with `reason()` after `ms` in which nothing was heard, or with the outer signal. */
export function watchSilence(ms: number, reason: () => Error, outer: AbortSignal): Silence {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(reason()), ms);
  const abort = (): void => controller.abort(outer.reason);
  if (outer.aborted) abort();
  outer.addEventListener('abort', abort, { once: true });
  return {
    signal: controller.signal,
    heard: () => void timer.refresh(),
    [Symbol.dispose]() {
      clearTimeout(timer);
      outer.removeEventListener('abort', abort);
    },
  };
}
