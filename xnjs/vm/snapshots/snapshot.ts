import type { TargetSystem } from '../target-system.js';

/**
 * `TAKING`: not complete yet. `FAILED`: it never became complete, `message` says why; nothing is kept of it.
 * `REMOVING`: its files go, then it does.
 */
export type SnapshotState = 'TAKING' | 'READY' | 'FAILED' | 'REMOVING';

/** A machine as it was at one moment, its memory and its disk: kept in the record of its target system (ADR 037). */
export type Snapshot = {
  readonly id: string;
  /** For people. */
  readonly name: string;
  readonly state: SnapshotState;
  /** Why it failed, or why it could not be restored the last time. */
  readonly message?: string;
  readonly createdMs: number;
  /** When the machine stood still for it: what its jobs did later is not in it. */
  readonly atMs?: number;
  /** Its machine was off: there is no memory, and whoever goes back to it boots. */
  readonly isDiskOnly?: true;
  /** Hypervisor and processor that its memory belongs to. */
  readonly host?: string;
  /** What its machine had then. */
  readonly parameters: TargetSystem['parameters'];
  /** How it proved itself then: its key is in its memory. */
  readonly enrolment?: TargetSystem['enrolment'];
  /** Room on disk: the most that it may take, then what it takes. */
  readonly sizeMiB: number;
};

/** What is being done with a machine in several steps; another server goes on with it (ADR 037). */
export type Undertaking = {
  readonly do: 'snapshot' | 'revert';
  readonly snapshotId: string;
  /** The machine that is to be replaced is proven gone. */
  readonly isFenced?: true;
  /** It was started again from what was saved, and may have run since. */
  readonly isStarted?: true;
  /** There was no machine any more, by no wish of its recovery: none is made where this cannot be done. */
  readonly hadFailed?: true;
  /** Why it cannot be done: what there was goes on. */
  readonly failure?: string;
};

/** Jobs of a machine that was put back to an earlier moment, of which something is still to be done. */
export type RevertedJobs = {
  /** ms since the epoch: to when. */
  readonly toMs: number;
  readonly reason: string;
  /** `tell` them before the machine runs; then, as soon as it does, `tidy` what runs there and should not. */
  readonly step: 'tell' | 'tidy';
};

export function findSnapshot(
  { snapshots = [] }: Pick<TargetSystem, 'snapshots'>,
  id: string,
): Snapshot | undefined {
  return snapshots.find((each) => each.id === id);
}

/** The last one that nothing is known to be wrong with. */
export function lastSnapshot({
  snapshots = [],
}: Pick<TargetSystem, 'snapshots'>): Snapshot | undefined {
  return snapshots
    .filter(({ state, message }) => state === 'READY' && message === undefined)
    .toSorted((a, b) => (b.atMs ?? 0) - (a.atMs ?? 0))[0];
}

/** @param change of the snapshot with that id; nothing drops it */
export function withSnapshot<S extends Pick<TargetSystem, 'snapshots'>>(
  system: S,
  id: string,
  change: Partial<Snapshot> | undefined,
): S {
  const { snapshots = [] } = system;
  return {
    ...system,
    snapshots: snapshots.flatMap((each) =>
      each.id !== id ? [each] : change ? [{ ...each, ...change }] : [],
    ),
  };
}

/** What the snapshots of a target system take on disk. */
export function snapshotsMiB({ snapshots = [] }: Partial<Pick<TargetSystem, 'snapshots'>>): number {
  return snapshots.reduce((sum, { sizeMiB }) => sum + sizeMiB, 0);
}
