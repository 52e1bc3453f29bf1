import type { MarkedRecord } from './domain-mark.js';
import type { TargetSystem } from './target-system.js';

/** The least that one lives on that was found again. */
const adoptedForMs = 86_400_000;

/** The record of a machine that the database did not know any more, from what its domain carries. */
export function adopted(found: MarkedRecord, host: string, atMs: number): TargetSystem {
  const fact = 'found again: the database did not know it any more';
  const { terminationMs, volumes } = found;
  return {
    ...found,
    host,
    state: 'UNREACHABLE',
    evidence: { source: 'server', fact, atMs },
    views: { agent: { says: 'down', fact, sinceMs: atMs } },
    boot: {},
    // what the machine has written to them nobody knows any more
    ...(volumes && { volumes: volumes.map((volume) => ({ ...volume, wasUsed: true })) }),
    // what was put off since may have been lost with the rest
    ...(terminationMs !== undefined && {
      terminationMs: Math.max(terminationMs, atMs + adoptedForMs),
    }),
  };
}
