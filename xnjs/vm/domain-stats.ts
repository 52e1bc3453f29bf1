import type { Domain, Result, TypedParams } from '#kernel/libvirt/procedures.js';
import type { UsageSample } from './usage.js';

/** Groups of libvirt's figures: state, processors, balloon, interfaces, disks. */
export const statsGroups = 1 | 2 | 4 | 16 | 32;
const activeOnly = 1;
/** Without what a monitor does not answer at once: one that is stuck must not keep the figures of all others. */
export const statsFlags = activeOnly | 0x2000_0000;

const kibPerMiB = 1024;

/**
 * What libvirt tells of a domain that runs; parts that its driver does not know are none.
 * @returns nothing while its monitor is busy: without what only that knows, the figures would look as if all
 * had begun anew
 */
export function toSample(dom: Domain, params: TypedParams): UsageSample | undefined {
  const figures = new Map<string, number>();
  for (const { field, value: read } of params)
    if (typeof read.value === 'number' || typeof read.value === 'bigint')
      figures.set(field, Number(read.value));
  const figure = (field: string): number | undefined => figures.get(field);
  /** Over all devices. */
  const sum = (device: string, what: string): number => {
    let total = 0;
    for (let n = 0; n < (figure(`${device}.count`) ?? 0); n++)
      total += figure(`${device}.${n}.${what}`) ?? 0;
    return total;
  };
  const hasDisks = (figure('block.count') ?? 0) > 0;
  if (hasDisks && !params.some(({ field }) => /^block\.\d+\.rd\.bytes$/.test(field)))
    return undefined;
  const [resident, given] = [figure('balloon.rss'), figure('balloon.current')];
  return {
    id: dom.uuid,
    run: dom.id,
    counters: {
      cpuMs: Math.round((figure('cpu.time') ?? 0) / 1e6),
      diskReadBytes: sum('block', 'rd.bytes'),
      diskWrittenBytes: sum('block', 'wr.bytes'),
      networkReceivedBytes: sum('net', 'rx.bytes'),
      networkSentBytes: sum('net', 'tx.bytes'),
    },
    ...(resident !== undefined && { residentMiB: toMiB(resident) }),
    ...(given !== undefined && { givenMiB: toMiB(given) }),
  };
}

const toMiB = (kib: number): number => Math.round(kib / kibPerMiB);

/** Of a container: what its cgroups have counted. */
export function toContainerSample(
  dom: Domain,
  { cpuTime, memory }: Pick<Result<'domain_get_info'>, 'cpuTime' | 'memory'>,
): UsageSample {
  return {
    id: dom.uuid,
    run: dom.id,
    counters: {
      cpuMs: Math.round(Number(cpuTime) / 1e6),
      ...{ diskReadBytes: 0, diskWrittenBytes: 0 },
      ...{ networkReceivedBytes: 0, networkSentBytes: 0 },
    },
    residentMiB: toMiB(Number(memory)),
  };
}
