/** Time as the engine sees it. Injected, so that tests decide what time it is. */
export type Clock = {
  /** ms since the epoch */
  now(): number;
  /** Resolves after `ms`; rejects with the signal's reason when aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const timer = setTimeout(done, ms);
      function done(): void {
        signal?.removeEventListener('abort', aborted);
        resolve();
      }
      function aborted(): void {
        clearTimeout(timer);
        reject(signal?.reason as Error);
      }
      signal?.addEventListener('abort', aborted, { once: true });
    }),
};

/** The form of every date on the wire: `2026-06-17T14:54:15+0200` (UTC offset, no colon, never `Z`). */
export function formatDate(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}+0000`;
}
