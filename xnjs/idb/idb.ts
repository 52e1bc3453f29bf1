import type { IdbApplication } from '#imagerepo/contract.js';
import type { UnitKind } from '../incarnation/units.js';
import type { Target } from '../target.js';

/** A resource that jobs may ask for, in the base unit of its kind (s, bytes). */
export type ResourceRange = { readonly kind: UnitKind; readonly min: number; readonly max: number };

/** A batch queue, and what it offers. */
export type Partition = {
  readonly name: string;
  readonly resources: Readonly<Record<string, ResourceRange>>;
};

/** The incarnation database of one target system: what runs there, and how much of it. */
export type Idb = {
  readonly applications: readonly IdbApplication[];
  readonly partition: Partition;
};

/** The name of the one queue that a virtual machine has. */
export const partitionName = 'vm';
const longestRuntimeSeconds = 30 * 86_400;
const leastMemoryBytes = 1024 ** 2;

/** The image's applications, and the size of the machine as its only partition. */
export function idbOf({ applications, limits }: Pick<Target, 'applications' | 'limits'>): Idb {
  const count = (max: number): ResourceRange => ({ kind: 'count', min: 1, max });
  return {
    applications,
    partition: {
      name: partitionName,
      resources: {
        Runtime: { kind: 'seconds', min: 1, max: longestRuntimeSeconds },
        Nodes: count(1),
        CPUsPerNode: count(limits.cpus),
        TotalCPUs: count(limits.cpus),
        MemoryPerNode: { kind: 'bytes', min: leastMemoryBytes, max: limits.memoryBytes },
      },
    },
  };
}
