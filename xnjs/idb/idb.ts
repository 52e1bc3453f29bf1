import type { IdbApplication, IdbResource } from '#imagerepo/contract.js';
import { canonicalResource, type ImageMetadata } from '#imagerepo/contract.js';
import type { ScriptHeader } from './script-header.js';
import type { SiteIdb } from './site-idb.js';

/** A batch queue, and what jobs may ask of it. */
export type Partition = {
  readonly name: string;
  readonly resources: Readonly<Record<string, IdbResource>>;
};

/** The incarnation database of one target system: what runs there, and how much of it. */
export type Idb = {
  /** An application that stands before another of the same name and version hides it. */
  readonly applications: readonly IdbApplication[];
  /** Not empty; the first is for jobs that name none. */
  readonly partitions: readonly Partition[];
  /** Shown to clients. */
  readonly info: Readonly<Record<string, string>>;
  readonly scriptHeader: ScriptHeader;
  /** Whether jobs may bring commands of their own. */
  readonly allowUserExecutable: boolean;
  /** What is wrong with application files of the user's own, for who misses an application. */
  readonly problems?: readonly string[];
};

/** What an image says of the target systems made from it. */
export type IdbFragment = Partial<Pick<ImageMetadata, 'partitions' | 'resources' | 'info'>>;

/** What of a target system its IDB is made from. */
export type IdbSubject = {
  /** The image's applications. */
  readonly applications: readonly IdbApplication[];
  readonly fragment?: IdbFragment;
  /** What the machine has. */
  readonly limits: { readonly cpus: number; readonly memoryBytes: number };
  /** Queues that its batch system told of. */
  readonly queues?: readonly string[];
};

/** The IDB of one target system, parts of which may lie on it: the user's own applications. */
export type TargetIdb = {
  current(): Idb;
  /** Whether those parts have to be read before `current` is right. */
  isStale(): boolean;
  /** Reads them. @throws `TSI_UNAVAILABLE` */
  refresh(): Promise<void>;
};

/** The one queue of a machine for which nothing else is said. */
export const partitionName = 'vm';
const longestRuntimeSeconds = 30 * 86_400;
const mostNodes = 65_536;
const leastMemoryBytes = 1024 ** 2;
const mostArrayMembers = 10_000;

export const emptySiteIdb: SiteIdb = {
  applications: [],
  partitions: [],
  info: {},
  scriptHeader: {},
  allowUserExecutable: true,
};

/**
 * The site's IDB, the image's fragment and the machine as one (docs/protocols/idb.md, "Merging").
 * @param ofUser applications of the user's own, which hide all others
 */
export function mergeIdb(
  subject: IdbSubject,
  site: SiteIdb = emptySiteIdb,
  ofUser: readonly IdbApplication[] = [],
): Idb {
  const { applications, fragment = {} } = subject;
  return {
    applications: withoutHidden([...ofUser, ...applications, ...site.applications]),
    partitions: partitionsOf(subject, site),
    // an image has no say in what the site says of itself
    info: { ...fragment.info, ...site.info },
    scriptHeader: site.scriptHeader,
    allowUserExecutable: site.allowUserExecutable,
  };
}

/** The IDB of a target system as it is now; where there is no site IDB, what its image says. */
export function idbOf(target: IdbSubject & { readonly idb?: TargetIdb }): Idb {
  return target.idb?.current() ?? mergeIdb(target);
}

function withoutHidden(applications: readonly IdbApplication[]): IdbApplication[] {
  const byName = new Map<string, IdbApplication>();
  for (const application of applications) {
    const key = JSON.stringify([application.Name, application.Version]);
    if (!byName.has(key)) byName.set(key, application);
  }
  return [...byName.values()];
}

/** The image's partitions, else the site's, else those of the batch system, else one for the machine. */
function partitionsOf({ fragment = {}, limits, queues = [] }: IdbSubject, site: SiteIdb) {
  const ofImage = toPartitions(fragment.partitions ?? {});
  const ofBatchSystem = queues.map((name): Partition => ({ name, resources: {} }));
  const ownNodes = ofImage.length > 0 || (site.partitions.length === 0 && queues.length > 0);
  const found = [ofImage, site.partitions, ofBatchSystem].find(({ length }) => length > 0);
  const machine = machineResources(limits, ownNodes);
  return (found ?? [{ name: partitionName, resources: {} }]).map(({ name, resources }) => ({
    name,
    resources: withinMachine({ ...resources, ...fragment.resources }, machine),
  }));
}

/** The default first: the one marked so, else the first. */
export function toPartitions(partitions: NonNullable<IdbFragment['partitions']>): Partition[] {
  return Object.entries(partitions)
    .sort(([, a], [, b]) => Number(!!b.IsDefaultPartition) - Number(!!a.IsDefaultPartition))
    .map(([name, { Resources }]) => ({ name, resources: Resources }));
}

type Numeric = Extract<IdbResource, { Type: 'INT' | 'DOUBLE' }>;

/** @param ownNodes its batch system has nodes of its own, and we do not know how many */
function machineResources(
  { cpus, memoryBytes }: IdbSubject['limits'],
  ownNodes: boolean,
): Record<string, Numeric> {
  const count = (Max: number): Numeric => ({ Type: 'INT', Min: 1, Max });
  return {
    Runtime: { Type: 'INT', Min: 1, Max: longestRuntimeSeconds },
    Nodes: count(ownNodes ? mostNodes : 1),
    CPUsPerNode: count(cpus),
    TotalCPUs: count(cpus),
    MemoryPerNode: { Type: 'INT', Min: leastMemoryBytes, Max: memoryBytes },
    ArraySize: count(mostArrayMembers),
    ArrayLimit: count(mostArrayMembers),
  };
}

/** What the machine has bounds what is said of it, and stands where nothing is said. */
function withinMachine(
  resources: Readonly<Record<string, IdbResource>>,
  machine: Readonly<Record<string, Numeric>>,
): Record<string, IdbResource> {
  const bounded = Object.entries(resources).map(([name, resource]) => {
    const limit = Object.hasOwn(machine, name) ? machine[name] : undefined;
    const applies = limit !== undefined && name !== 'Runtime' && isNumeric(resource);
    return [name, applies ? cut(resource, limit.Max) : resource] as const;
  });
  return { ...machine, ...Object.fromEntries(bounded) };
}

function cut(resource: Numeric, most: number): Numeric {
  const within = (value: number): number => Math.min(value, most);
  const { Min, Max, Default } = resource;
  return {
    ...resource,
    Min: within(Min),
    Max: within(Max),
    ...(Default !== undefined && { Default: within(Default) }),
  };
}

export function isNumeric(resource: IdbResource): resource is Numeric {
  return resource.Type === 'INT' || resource.Type === 'DOUBLE';
}

/** A partition's word on a resource, by any of its names. */
export function findResource({ resources }: Partition, name: string): IdbResource | undefined {
  const canonical = canonicalResource(name);
  return Object.hasOwn(resources, canonical) ? resources[canonical] : undefined;
}
