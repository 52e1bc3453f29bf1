import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { withDeadline } from '#kernel/net/deadline.js';
import type { TargetBinding } from '../target-binding.js';
import { identityOf, type TargetSystem } from '../target-system.js';

/** How long the end of a machine waits for what it has not written yet. */
const writeOutMs = 20_000;

/** A volume that outlives its machine gets what that has only in its memory so far. Never fails. */
export async function writeOut(
  { id, image, volumes = [] }: TargetSystem,
  binding: TargetBinding | undefined,
  stopping: AbortSignal,
  log: Log,
): Promise<void> {
  const isKept = volumes.some(({ volumeId }) => volumeId !== undefined);
  if (!isKept || !binding) return;
  try {
    const late = (): Error => new Error('it takes too long');
    await withDeadline(writeOutMs, [stopping], late, async (signal) =>
      binding.tsi.execute(identityOf({ image }), 'sync', { signal }),
    );
  } catch (error) {
    log.warn({ vmId: id, err: errorText(error) }, 'a machine ends that did not write all');
  }
}
