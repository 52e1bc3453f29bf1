import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Workspace } from './workspace.js';

export type ConsoleWatchOptions = {
  readonly workspace: Pick<Workspace, 'boundConsoles'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
  readonly compareMs?: number;
};

/** Now and then, until the server stops: guests write to their consoles as much as they like. */
export async function watchConsoles(options: ConsoleWatchOptions): Promise<void> {
  const { workspace, clock, log, stopping, compareMs = 30_000 } = options;
  for (;;) {
    await clock.sleep(compareMs, stopping).catch(() => undefined);
    if (stopping.aborted) return;
    try {
      for (const vmId of await workspace.boundConsoles())
        log.info({ vmId }, 'the console of a machine was too long: its beginning is cut off');
    } catch (error) {
      log.warn({ err: error }, 'the consoles of machines could not be looked at, trying again');
    }
  }
}
