import type { IdbApplication, IdbResource } from '#imagerepo/contract.js';
import { canonicalResource, type ImageMetadata } from '#imagerepo/contract.js';
import type { Partition as BatchQueue } from '../tsi/tsi.js';
import type { ScriptHeader } from './script-header.js';
import type { SiteIdb } from './site-idb.js';

/** A batch queue, and what jobs may ask of it. */
export type Partition = {
  readonly name: string;
  /** Marked as the one for jobs that name none. */
  readonly isDefault?: boolean;
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
  /** What its batch system told of its queues, by name; absent: it has not been asked yet. */
  readonly queues?: Readonly<Record<string, BatchQueue>>;
  /** Whether its TSI runs job arrays; absent: nothing says that it does not. */
  readonly arrays?: boolean;
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

/**
 * The image's partitions, else the site's, and of these what the batch system has too; else its queues;
 * else one for the machine.
 */
function partitionsOf(subject: IdbSubject, site: SiteIdb): Partition[] {
  const { fragment = {}, queues = {} } = subject;
  const ofImage = toPartitions(fragment.partitions ?? {});
  const ownNodes = ofImage.length > 0 || Object.keys(queues).length > 0;
  const described = ofImage.length > 0 ? ofImage : site.partitions;
  const machine = machineResources(subject, ownNodes);
  return offered(described, queues).map(({ name, resources, ...partition }) => {
    const queue = Object.hasOwn(queues, name) ? queues[name] : undefined;
    const bounds = queue ? withinQueue(machine, queue) : machine;
    const own = doable({ ...resources, ...fragment.resources }, subject);
    const within = withinMachine(own, bounds, queue?.Runtime !== undefined);
    return { name, ...partition, resources: within };
  });
}

function offered(
  described: readonly Partition[],
  queues: NonNullable<IdbSubject['queues']>,
): readonly Partition[] {
  const names = Object.keys(queues);
  if (names.length === 0)
    return described.length > 0 ? described : [{ name: partitionName, resources: {} }];
  const known = described.filter(({ name }) => names.includes(name));
  const found =
    known.length > 0 ? known : names.map((name): Partition => ({ name, resources: {} }));
  if (found.some(({ isDefault }) => isDefault)) return found;
  return found.toSorted(
    (a, b) => Number(!!queues[b.name]?.isDefault) - Number(!!queues[a.name]?.isDefault),
  );
}

/** Whoever offers job arrays, a TSI that has none would run the job once, and say nothing. */
function doable(
  resources: Readonly<Record<string, IdbResource>>,
  { arrays = true }: IdbSubject,
): Record<string, IdbResource> {
  const names = new Set(arrays ? [] : ['ArraySize', 'ArrayLimit']);
  return Object.fromEntries(Object.entries(resources).filter(([name]) => !names.has(name)));
}

/** The default first: the one marked so, else the first. */
export function toPartitions(partitions: NonNullable<IdbFragment['partitions']>): Partition[] {
  return Object.entries(partitions)
    .sort(([, a], [, b]) => Number(!!b.IsDefaultPartition) - Number(!!a.IsDefaultPartition))
    .map(([name, { Resources, IsDefaultPartition }]) => ({
      name,
      ...(IsDefaultPartition && { isDefault: true }),
      resources: Resources,
    }));
}

type Numeric = Extract<IdbResource, { Type: 'INT' | 'DOUBLE' }>;

/** @param ownNodes its batch system has nodes of its own, and we do not know how many */
function machineResources(
  { limits: { cpus, memoryBytes }, arrays = true }: IdbSubject,
  ownNodes: boolean,
): Record<string, Numeric> {
  const count = (Max: number): Numeric => ({ Type: 'INT', Min: 1, Max });
  return {
    Runtime: { Type: 'INT', Min: 1, Max: longestRuntimeSeconds },
    Nodes: count(ownNodes ? mostNodes : 1),
    CPUsPerNode: count(cpus),
    TotalCPUs: count(cpus),
    MemoryPerNode: { Type: 'INT', Min: leastMemoryBytes, Max: memoryBytes },
    ...(arrays && {
      ArraySize: count(mostArrayMembers),
      ArrayLimit: count(mostArrayMembers),
    }),
  };
}

/** The nodes are the batch system's, which knows them better than we know its machine. */
function withinQueue(
  machine: Readonly<Record<string, Numeric>>,
  { Nodes, CPUsPerNode, MemoryPerNode, Runtime }: BatchQueue,
): Record<string, Numeric> {
  const cpus = CPUsPerNode === undefined ? undefined : CPUsPerNode * Math.max(Nodes, 1);
  const told = { Nodes: Nodes || undefined, CPUsPerNode, TotalCPUs: cpus, MemoryPerNode, Runtime };
  const bounds = Object.entries(machine).map(([name, resource]) => {
    const most = (told as Partial<Record<string, number>>)[name];
    return [name, most === undefined ? resource : { ...resource, Max: most }] as const;
  });
  return Object.fromEntries(bounds);
}

/**
 * What the machine has bounds what is said of it, and stands where nothing is said.
 * @param boundsRuntime its longest run time is a limit, too, not only a default
 */
function withinMachine(
  resources: Readonly<Record<string, IdbResource>>,
  machine: Readonly<Record<string, Numeric>>,
  boundsRuntime: boolean,
): Record<string, IdbResource> {
  const bounded = Object.entries(resources).map(([name, resource]) => {
    const limit = Object.hasOwn(machine, name) ? machine[name] : undefined;
    const isLimit = boundsRuntime || name !== 'Runtime';
    const applies = limit !== undefined && isLimit && isNumeric(resource);
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
