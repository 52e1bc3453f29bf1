import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Targets } from '../../target.js';
import type { StartTier, TargetSystem } from '../target-system.js';

/** How a machine came up: booted, or by one of the shorter ways. */
export const startTiers = ['spare', 'warm', 'cold', 'fetch'] as const satisfies StartTier[];

/** One start of a machine, from its request until jobs could run there. */
export type Start = {
  readonly targetId: string;
  readonly imageId: string;
  readonly tier: StartTier;
  readonly durationMs: number;
  readonly atMs: number;
};

export type StartStore = {
  /** Of each target system the first counts. */
  add(start: Start): Promise<void>;
  /** The latest of an image, by tier. */
  latest(imageId: string): Promise<Pick<Start, 'tier' | 'durationMs'>[]>;
};

/** How long users have waited for machines of an image. */
export type ExpectedWait = {
  readonly tier: StartTier;
  readonly p50Ms: number;
  readonly p90Ms: number;
  /** How many starts that is known from. */
  readonly starts: number;
};

/** By tier, the quickest tiers first; tiers that the image has not been started by are left out. */
export function expectedWaits(
  starts: readonly Pick<Start, 'tier' | 'durationMs'>[],
): ExpectedWait[] {
  return startTiers.flatMap((tier) => {
    const durations = starts
      .filter((start) => start.tier === tier)
      .map(({ durationMs }) => durationMs)
      .sort((a, b) => a - b);
    const at = (share: number) => durations[Math.ceil(share * durations.length) - 1];
    const [p50Ms, p90Ms] = [at(0.5), at(0.9)];
    if (p50Ms === undefined || p90Ms === undefined) return [];
    return [{ tier, p50Ms, p90Ms, starts: durations.length }];
  });
}

/** Notes how long each target system took to get ready. @returns ends it */
export function recordStarts(
  systems: Pick<Targets, 'subscribe'> & { get(id: string): TargetSystem },
  store: StartStore,
  log: Log,
): () => void {
  return systems.subscribe((event) => {
    if (event.type !== 'ready' || !event.isStart) return;
    const { id, image, boot, start: how, createdMs } = systems.get(event.targetId);
    if (boot.readyMs === undefined) return;
    const tier = how?.tier ?? 'cold';
    const start = { targetId: id, imageId: image.id, tier, atMs: createdMs };
    store.add({ ...start, durationMs: boot.readyMs }).catch((error: unknown) => {
      log.warn({ vmId: id, err: errorText(error) }, 'the time of a start was not noted');
    });
  });
}
