import type { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Domain, TypedParams } from '#kernel/libvirt/procedures.js';
import { cpuPeriodUs, cpuQuotaUs, diskTargets, toKilobytes } from './controls-xml.js';
import { macAddress } from './network.js';
import type { ControlName } from './resource-controls.js';
import type { ChangeableName, TargetSystem } from './target-system.js';

type Controlled = Pick<TargetSystem, 'id' | 'driver' | 'parameters' | 'card' | 'image' | 'volumes'>;

/** libvirt's way of saying what kind of value follows. */
const uint = (field: string, value: number) => ({ field, value: { type: 2, value } }) as const;
const hyper = (field: string, value: number) =>
  ({ field, value: { type: 3, value: BigInt(value) } }) as const;
const uhyper = (field: string, value: number) =>
  ({ field, value: { type: 4, value: BigInt(value) } }) as const;

/** libvirt's "no limit" for memory, in KiB. */
const unlimitedKiB = 9_007_199_254_740_991;
/** For the machine that runs, and for when it is started again. */
const liveAndConfig = 1 | 2;

type Call = (
  client: LibvirtClient,
  dom: Domain,
  system: Controlled,
  flags: number,
) => Promise<unknown>;

const setScheduler: Call = (client, dom, system, flags) => {
  const isContainer = system.driver === 'lxc';
  const [quota, period] = isContainer
    ? ['vcpu_quota', 'vcpu_period']
    : ['global_quota', 'global_period'];
  const { cpuShares } = system.parameters;
  const params: TypedParams = [
    ...(cpuShares === undefined ? [] : [uhyper('cpu_shares', cpuShares)]),
    uhyper(period, cpuPeriodUs),
    hyper(quota, cpuQuotaUs(system) ?? -1),
  ];
  return client.call('domain_set_scheduler_parameters_flags', { dom, params, flags });
};

/** All of them each time: libvirt takes away what is left out. */
const setDisk: Call = async (client, dom, system, flags) => {
  const { diskReadBytesPerSecond, diskWriteBytesPerSecond, diskIops } = system.parameters;
  const params: TypedParams = [
    uhyper('read_bytes_sec', diskReadBytesPerSecond ?? 0),
    uhyper('write_bytes_sec', diskWriteBytesPerSecond ?? 0),
    uhyper('total_iops_sec', diskIops ?? 0),
  ];
  for (const disk of diskTargets(system))
    await client.call('domain_set_block_io_tune', { dom, disk, params, flags });
};

const setNetwork: Call = (client, dom, { id, parameters, card }, flags) => {
  const { networkInboundBytesPerSecond, networkOutboundBytesPerSecond } = parameters;
  const params: TypedParams = [
    uint('inbound.average', toKilobytes(networkInboundBytesPerSecond ?? 0)),
    uint('outbound.average', toKilobytes(networkOutboundBytesPerSecond ?? 0)),
  ];
  const device = card?.mac ?? macAddress(id);
  return client.call('domain_set_interface_parameters', { dom, device, params, flags });
};

const setHardLimit: Call = (client, dom, { parameters }, flags) => {
  const { memoryHardLimitMiB } = parameters;
  const limitKiB = memoryHardLimitMiB === undefined ? unlimitedKiB : memoryHardLimitMiB * 1024;
  const params = [uhyper('hard_limit', limitKiB)];
  return client.call('domain_set_memory_parameters', { dom, params, flags });
};

const setMemory: Call = (client, dom, { parameters: { memoryMiB } }, flags) =>
  client.call('domain_set_memory_flags', { dom, memory: BigInt(memoryMiB) * 1024n, flags });

const calls: Readonly<Record<ChangeableName, Call>> = {
  memoryMiB: setMemory,
  ...({
    cpuShares: setScheduler,
    cpuQuotaPercent: setScheduler,
    memoryHardLimitMiB: setHardLimit,
    diskReadBytesPerSecond: setDisk,
    diskWriteBytesPerSecond: setDisk,
    diskIops: setDisk,
    networkInboundBytesPerSecond: setNetwork,
    networkOutboundBytesPerSecond: setNetwork,
  } satisfies Record<ControlName, Call>),
};

/** Gives a domain that runs what the record says of these parameters. May be repeated. */
export async function setControls(
  client: LibvirtClient,
  dom: Domain,
  system: Controlled,
  names: readonly ChangeableName[],
): Promise<void> {
  for (const call of new Set(names.map((name) => calls[name])))
    await call(client, dom, system, liveAndConfig);
}
