import type { MarkedRecord } from './domain-mark.js';
import type { TargetSystem } from './target-system.js';

/** The least that one lives on that was found again. */
const adoptedForMs = 86_400_000;

/** Where a machine was found, and how. */
export type Found = {
  readonly host: string;
  /** Its memory is on disk, and it stays there until somebody wants it back. */
  readonly isParked?: boolean;
  /** In a file of ours, by an equal of such a host. */
  readonly parkedOn?: string;
};

/** The record of a machine that the database did not know any more, from what its domain carries. */
export function adopted(found: MarkedRecord, where: Found, atMs: number): TargetSystem {
  const { host, isParked = false, parkedOn } = where;
  const fact = 'found again: the database did not know it any more';
  const { terminationMs, volumes } = found;
  return {
    ...found,
    host,
    state: 'UNREACHABLE',
    evidence: { source: 'server', fact, atMs },
    views: { agent: { says: 'down', fact, sinceMs: atMs } },
    ...(isParked && { state: 'SUSPENDED', desired: 'suspended', frozenSinceMs: atMs }),
    ...(parkedOn !== undefined && { parkedOn }),
    boot: {},
    // what the machine has written to them nobody knows any more
    ...(volumes && { volumes: volumes.map((volume) => ({ ...volume, wasUsed: true })) }),
    // what was put off since may have been lost with the rest
    ...(terminationMs !== undefined && {
      terminationMs: Math.max(terminationMs, atMs + adoptedForMs),
    }),
  };
}
