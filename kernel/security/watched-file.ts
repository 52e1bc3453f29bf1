import { stat } from 'node:fs/promises';
import { systemClock, type Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';

export type WatchOptions = {
  readonly log: Log;
  readonly clock?: Clock;
  /** A change counts within so many ms. */
  readonly recheckMs?: number;
};

export type WatchedFile<T> = {
  /** What the file said when it was last good. */
  readonly current: () => Promise<T>;
  /** Reads it again now, whether it seems to have changed or not. */
  readonly reload: () => Promise<void>;
};

/**
 * A file that may be edited while we run. While it is missing or wrong, what it last said stays in force.
 * @param read throws if the content is wrong
 */
export async function watchFile<T>(
  path: string,
  read: (path: string) => Promise<T>,
  { log, clock = systemClock, recheckMs = 1_000 }: WatchOptions,
): Promise<WatchedFile<T>> {
  let version = await fileVersion(path);
  let content = await read(path);
  let checkedAt = clock.now();
  /** One after the other: a slow reading must not put back what a later one has replaced. */
  let reading = Promise.resolve();

  async function readAgain(): Promise<void> {
    try {
      version = await fileVersion(path);
      content = await read(path);
      log.info({ path }, 'file read again');
    } catch (err) {
      log.error({ path, err }, 'file not readable, the last good version stays in force');
    }
  }
  async function readChange(): Promise<void> {
    if ((await fileVersion(path)) !== version) await readAgain();
  }
  return {
    async current() {
      if (clock.now() - checkedAt >= recheckMs) {
        checkedAt = clock.now();
        reading = reading.then(readChange);
      }
      await reading;
      return content;
    },
    reload: () => (reading = reading.then(readAgain)),
  };
}

/** Changes whenever the content may have: editors replace files as often as they rewrite them. */
async function fileVersion(path: string): Promise<string> {
  try {
    const { mtimeMs, size, ino } = await stat(path);
    return `${mtimeMs} ${size} ${ino}`;
  } catch {
    return 'missing';
  }
}
