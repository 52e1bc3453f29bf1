/** What a machine has used, in total or since it was started. */
export type UsageCounters = {
  readonly cpuMs: number;
  readonly diskReadBytes: number;
  readonly diskWrittenBytes: number;
  readonly networkReceivedBytes: number;
  readonly networkSentBytes: number;
};
export const counterNames = [
  'cpuMs',
  'diskReadBytes',
  'diskWrittenBytes',
  'networkReceivedBytes',
  'networkSentBytes',
] as const satisfies readonly (keyof UsageCounters)[];

/** What the hypervisor says of a machine that runs. */
export type UsageSample = {
  readonly id: string;
  /** Another one each time that the machine is started: its counters begin anew. */
  readonly run: number;
  readonly counters: UsageCounters;
  /** What the machine's process has of the host's memory; absent: not told. */
  readonly residentMiB?: number;
  /** What the guest has been given at present. */
  readonly givenMiB?: number;
};

/** What a target system has used, durable; for accounting it outlives the target system. */
export type Usage = {
  /** The target system's. */
  readonly id: string;
  readonly ownerDn: string;
  readonly imageName: string;
  readonly total: UsageCounters;
  readonly memoryPeakMiB: number;
  readonly givenMiB?: number;
  /** ms since the epoch */
  readonly startedMs: number;
  readonly measuredMs: number;
  /** Absent: its machine runs. */
  readonly endedMs?: number;
  /** As last read, from which the next reading is counted. */
  readonly last: { readonly run: number; readonly counters: UsageCounters };
};

const nothing: UsageCounters = {
  cpuMs: 0,
  diskReadBytes: 0,
  diskWrittenBytes: 0,
  networkReceivedBytes: 0,
  networkSentBytes: 0,
};

export function newUsage(
  about: Pick<Usage, 'id' | 'ownerDn' | 'imageName' | 'startedMs'>,
  run: number,
): Usage {
  const last = { run, counters: nothing };
  return { ...about, total: nothing, memoryPeakMiB: 0, measuredMs: about.startedMs, last };
}

/** Pure. What a counter has lost, by a restart of machine or hypervisor, it has counted before. */
export function addSample(usage: Usage, sample: UsageSample, atMs: number): Usage {
  const { last, total } = usage;
  const isAnew = counterNames.some((name) => sample.counters[name] < last.counters[name]);
  const base = isAnew || sample.run !== last.run ? nothing : last.counters;
  const { run, counters: read, givenMiB, residentMiB = givenMiB ?? 0 } = sample;
  return {
    ...usage,
    total: grown(total, read, base),
    memoryPeakMiB: Math.max(usage.memoryPeakMiB, residentMiB),
    ...(givenMiB !== undefined && { givenMiB }),
    measuredMs: atMs,
    last: { run, counters: read },
  };
}

/** Member by member: thousands of machines are measured in a few seconds. */
function grown(total: UsageCounters, read: UsageCounters, base: UsageCounters): UsageCounters {
  const by = (name: keyof UsageCounters): number => total[name] + read[name] - base[name];
  return {
    cpuMs: by('cpuMs'),
    diskReadBytes: by('diskReadBytes'),
    diskWrittenBytes: by('diskWrittenBytes'),
    networkReceivedBytes: by('networkReceivedBytes'),
    networkSentBytes: by('networkSentBytes'),
  };
}

export type UsageFilter = {
  readonly ownerDn?: string | undefined;
  /** Those of which a part lies after it. */
  readonly sinceMs?: number | undefined;
};
/** Sums over all target systems of a user. */
export type UsageOfOwner = UsageCounters & { readonly ownerDn: string; readonly wallMs: number };

/** Durable. What a promise has answered for would survive a power cut. */
export type UsageStore = {
  /** Those whose machine was not known to have ended. */
  unfinished(): Promise<Usage[]>;
  find(id: string): Promise<Usage | undefined>;
  save(usages: readonly Usage[]): Promise<void>;
  /** The newest first. */
  list(
    filter: UsageFilter,
    page: { offset: number; num: number },
  ): Promise<{ usages: Usage[]; total: number }>;
  sums(): Promise<UsageOfOwner[]>;
  /** Those that ended before. @returns how many there were */
  prune(beforeMs: number): Promise<number>;
};
