import { asGridError } from '#kernel/errors.js';
import { PassingError } from './errors.js';
import type { ExportTransfer, ImportTransfer } from './transfer.js';

type AnyTransfer = ImportTransfer | ExportTransfer;

const waitFirstMs = 200;
const waitLastMs = 5_000;

/**
 * Tries until it succeeds or fails for good. A peer in trouble is given some more chances, more of them
 * while the transfer gets on; our own target system, or database, is waited for as long as it takes.
 */
export async function persist(transfer: AnyTransfer, attempt: () => Promise<void>): Promise<void> {
  const { config, clock, signal, progress, log, job } = transfer;
  let moved = 0;
  for (let failures = 0; ; failures++) {
    try {
      await waitOut(transfer, attempt);
      return;
    } catch (error) {
      signal.throwIfAborted();
      const { validator } = progress.record;
      if (validator !== undefined && progress.moved > moved) failures = 0;
      moved = progress.moved;
      if (!mayPass(error) || failures >= config.retries) throw error;
      const waitMs = waitAfter(error, failures, config);
      log.info({ jobId: job.id, ms: waitMs, err: error }, 'transfer broken, trying again');
      await clock.sleep(waitMs, signal);
    }
  }
}

/** Repeats work for as long as what we depend on does not answer. */
export async function waitOut(transfer: AnyTransfer, work: () => Promise<void>): Promise<void> {
  const { clock, signal } = transfer;
  for (let ms = waitFirstMs; ; ms = Math.min(2 * ms, waitLastMs)) {
    try {
      await work();
      return;
    } catch (error) {
      signal.throwIfAborted();
      throwIfGone(transfer);
      if (!isAway(error)) throw error;
      await clock.sleep(ms, signal);
    }
  }
}

/** @throws what the target system's binding says when there will be none again */
export function throwIfGone({ site }: Pick<AnyTransfer, 'site'>): void {
  if (!site.target) return;
  try {
    site.tsi();
  } catch (error) {
    if (!isAway(error)) throw error;
  }
}

const ours = new Set(['TSI_UNAVAILABLE', 'DATABASE_UNAVAILABLE', 'STORAGE_FULL']);

function isAway(error: unknown): boolean {
  return ours.has(asGridError(error)?.code ?? '');
}

function mayPass(error: unknown): boolean {
  return error instanceof PassingError || asGridError(error)?.code === 'TSI_PROTOCOL';
}

function waitAfter(
  error: unknown,
  failures: number,
  { retryFirstMs, retryMaxMs }: AnyTransfer['config'],
): number {
  const asked = error instanceof PassingError ? (error.retryAfterMs ?? 0) : 0;
  return Math.min(retryMaxMs, Math.max(asked, retryFirstMs * 2 ** failures));
}
