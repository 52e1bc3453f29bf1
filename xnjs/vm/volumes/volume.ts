import type { TargetSystem } from '../target-system.js';
import type { OwnedRecord } from '../../data/owned-records.js';
import type { CountsFor } from '../placement/quota.js';

/** A disk of its own that a machine has, beside that of its image (ADR 040). */
export type MachineVolume = {
  /** In the machine: the disk's serial, and in the name of its variable. */
  readonly name: string;
  readonly sizeMiB: number;
  /** Where it is mounted. */
  readonly path: string;
  /** That of its owner's which it is; absent: it goes with its machine. */
  readonly volumeId?: string;
  /** An earlier machine has had it: there may be something on it. */
  readonly wasUsed?: true;
};

/** A volume that outlives the machines that have it, one at a time: the durable record. */
export type Volume = OwnedRecord & {
  /** By which its owner asks for it; his volumes have different names. */
  readonly name: string;
  readonly sizeMiB: number;
  /** Its disk goes, then it does. */
  readonly isRemoving?: true;
  /** The target system whose machine has it, until that is proven gone. */
  readonly attachedTo?: string;
  /** It was made with that target system, and is nobody's if that never came to be. */
  readonly madeFor?: string;
  readonly wasUsed?: true;
  /** On whose quota it counts, beside its owner's and the site's. */
  readonly countsFor?: CountsFor;
};

/** Those of a machine. What was made for an earlier one of it, or that it has told of, is not made again. */
export function volumesOf({
  volumes = [],
  generation = 1,
  setup,
}: Pick<TargetSystem, 'volumes' | 'generation' | 'setup'>): readonly MachineVolume[] {
  if (generation === 1 && !setup) return volumes;
  return volumes.map((volume) => ({ ...volume, wasUsed: true }));
}

/** What goes with its machine; the others count by themselves. */
export function ownVolumesMiB({
  volumes = [],
}: {
  readonly volumes?: readonly MachineVolume[] | undefined;
}): number {
  return volumes.reduce(
    (sum, { sizeMiB, volumeId }) => sum + (volumeId === undefined ? sizeMiB : 0),
    0,
  );
}
