import type { Idb, ResourceRange } from '../idb/idb.js';
import type { JobDescription } from '../job/description.js';
import { JobError } from '../job/errors.js';
import { parseQuantity } from './units.js';

/** What the job asks the batch system for. Absent: not asked for. */
export type ResourceRequest = {
  readonly wallTime?: number;
  readonly memoryMiB?: number;
  readonly nodes?: number;
  readonly processorsPerNode?: number;
  readonly totalProcessors?: number;
  readonly queue: string;
  readonly project?: string;
  readonly email?: string;
};

const aliases: Partial<Record<string, string>> = { CPUs: 'TotalCPUs', Memory: 'MemoryPerNode' };
/** Passed or ignored, never checked against the partition (tsi-xnjs 6.6). */
const unchecked = new Set(['Queue', 'Project', 'NodeConstraints', 'QoS', 'Reservation']);

/**
 * Checks a job's requests against the partition.
 * @throws {@link JobError} `RESOURCE_UNKNOWN`, `RESOURCE_OUT_OF_RANGE`, each naming field, value and range
 */
export function checkResources(job: JobDescription, { partition }: Idb): ResourceRequest {
  const quantities: Partial<Record<string, number>> = {};
  for (const [name, text] of Object.entries(job.Resources)) {
    const canonical = aliases[name] ?? name;
    if (unchecked.has(name)) continue;
    if (name === 'Exclusive') {
      checkExclusive(text);
      continue;
    }
    const range = Object.hasOwn(partition.resources, canonical)
      ? partition.resources[canonical]
      : undefined;
    if (!range)
      throw new JobError(
        'RESOURCE_UNKNOWN',
        `Resources.${name}: not offered here; offered are ${Object.keys(partition.resources).join(', ')}`,
      );
    // The proper name wins over its alias.
    const quantity = checkRange(name, text, range);
    if (name === canonical || quantities[canonical] === undefined) quantities[canonical] = quantity;
  }
  const { Runtime, Nodes, CPUsPerNode, TotalCPUs, MemoryPerNode } = quantities;
  const project = job.Project ?? job.Resources['Project'];
  return {
    ...(Runtime !== undefined && { wallTime: Runtime }),
    ...(MemoryPerNode !== undefined && { memoryMiB: Math.ceil(MemoryPerNode / 1024 ** 2) }),
    ...(Nodes !== undefined && { nodes: Nodes }),
    ...(CPUsPerNode !== undefined && { processorsPerNode: CPUsPerNode }),
    ...(TotalCPUs !== undefined && { totalProcessors: TotalCPUs }),
    queue: checkQueue(job.Resources['Queue'], partition.name),
    ...(project !== undefined && { project }),
    ...(job['User email'] !== undefined && { email: job['User email'] }),
  };
}

function checkRange(name: string, text: string, range: ResourceRange): number {
  const value = parseQuantity(text, range.kind);
  const bounds = `${range.min}-${range.max}${range.kind === 'count' ? '' : ` ${range.kind}`}`;
  if (value === undefined)
    throw new JobError(
      'RESOURCE_OUT_OF_RANGE',
      `Resources.${name}: "${text}" is not a whole number${range.kind === 'count' ? '' : ' with a unit'}; the range is ${bounds}`,
    );
  if (value < range.min || value > range.max)
    throw new JobError('RESOURCE_OUT_OF_RANGE', `Resources.${name}: ${text} is outside ${bounds}`);
  return value;
}

function checkQueue(queue: string | undefined, only: string): string {
  if (queue === undefined || queue === '' || queue === only) return only;
  throw new JobError(
    'RESOURCE_OUT_OF_RANGE',
    `Resources.Queue: there is no queue "${queue}" here; there is: ${only}`,
  );
}

function checkExclusive(text: string): void {
  if (text !== 'true' && text !== 'false')
    throw new JobError(
      'RESOURCE_OUT_OF_RANGE',
      `Resources.Exclusive: "${text}" is neither true nor false`,
    );
}
