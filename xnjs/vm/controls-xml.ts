import { element, type XmlNode } from '#kernel/xml/build.js';
import type { TargetSystem } from './target-system.js';

/** Of quotas of the processor. */
export const cpuPeriodUs = 100_000;
/** The target of the disk that a machine has of its image. */
export const diskTarget = 'vda';

/** That of a volume, the first is 0. */
export function volumeTarget(at: number): string {
  return `vd${String.fromCharCode('b'.charCodeAt(0) + at)}`;
}

/** Of all disks that a machine writes to. */
export function diskTargets({
  image: { metadata },
  volumes = [],
}: Pick<TargetSystem, 'image' | 'volumes'>): string[] {
  const own = metadata.format === 'qcow2' ? [diskTarget] : [];
  return [...own, ...volumes.map((_, at) => volumeTarget(at))];
}

type Sized = Pick<TargetSystem, 'driver' | 'parameters' | 'cores'> & SharedCores;

/** In libvirt's form; absent: a machine without cores of its own runs on all of its host. */
export type SharedCores = { readonly sharedCores?: string | undefined };

/** µs of processor time in each period, for all of a machine together; `undefined`: as much as there is. */
export function cpuQuotaUs({ driver, parameters }: Sized): number | undefined {
  // A container sees all cores of the host; this is what it may use of them.
  const percent =
    parameters.cpuQuotaPercent ?? (driver === 'lxc' ? 100 * parameters.cpus : undefined);
  return percent === undefined ? undefined : (percent * cpuPeriodUs) / 100;
}

/** What the whole domain may have: memory and processors. */
export function sizeXml(system: Sized): (XmlNode | false)[] {
  const { cpus, memoryMiB, memoryMaxMiB = memoryMiB, memoryHardLimitMiB } = system.parameters;
  return [
    element('memory', { unit: 'MiB' }, String(memoryMaxMiB)),
    memoryMaxMiB !== memoryMiB && element('currentMemory', { unit: 'MiB' }, String(memoryMiB)),
    element(
      'vcpu',
      system.sharedCores === undefined ? {} : { placement: 'static', cpuset: system.sharedCores },
      String(cpus),
    ),
    cpuXml(system),
    memoryHardLimitMiB !== undefined &&
      element('memtune', {}, element('hard_limit', { unit: 'MiB' }, String(memoryHardLimitMiB))),
  ];
}

function cpuXml(system: Sized): XmlNode | false {
  const { cpuShares } = system.parameters;
  const { cores = [], sharedCores } = system;
  const quotaUs = cpuQuotaUs(system);
  if (cpuShares === undefined && quotaUs === undefined && cores.length === 0) return false;
  const prefix = system.driver === 'lxc' ? '' : 'global_';
  return element(
    'cputune',
    {},
    cpuShares !== undefined && element('shares', {}, String(cpuShares)),
    quotaUs !== undefined && element(`${prefix}period`, {}, String(cpuPeriodUs)),
    quotaUs !== undefined && element(`${prefix}quota`, {}, String(quotaUs)),
    ...cores.map((cpuset, vcpu) => element('vcpupin', { vcpu, cpuset })),
    cores.length > 0 &&
      sharedCores !== undefined &&
      element('emulatorpin', { cpuset: sharedCores }),
  );
}

export function iotuneXml({ parameters }: Sized): XmlNode | false {
  const { diskReadBytesPerSecond, diskWriteBytesPerSecond, diskIops } = parameters;
  const limits = {
    read_bytes_sec: diskReadBytesPerSecond,
    write_bytes_sec: diskWriteBytesPerSecond,
    total_iops_sec: diskIops,
  };
  const set = Object.entries(limits).filter(([, value]) => value !== undefined);
  if (set.length === 0) return false;
  return element('iotune', {}, ...set.map(([name, value]) => element(name, {}, String(value))));
}

export function bandwidthXml({ parameters }: Sized): XmlNode | false {
  const { networkInboundBytesPerSecond: inbound, networkOutboundBytesPerSecond: outbound } =
    parameters;
  if (inbound === undefined && outbound === undefined) return false;
  return element(
    'bandwidth',
    {},
    inbound !== undefined && element('inbound', { average: toKilobytes(inbound) }),
    outbound !== undefined && element('outbound', { average: toKilobytes(outbound) }),
  );
}

/** libvirt's unit of bandwidth, which it hands to `tc` as `kbps`: a thousand bytes a second. */
export const toKilobytes = (bytes: number): number => Math.floor(bytes / 1000);
