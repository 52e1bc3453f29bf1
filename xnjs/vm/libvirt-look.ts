import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { isUnknownDomain } from '#kernel/libvirt/errors.js';
import { domainStates, pausedReasons, type Lifecycle } from '#kernel/libvirt/events.js';
import type { Domain, TypedParams } from '#kernel/libvirt/procedures.js';
import { statsFlags } from './domain-stats.js';
import type { DomainLook, DomainView } from './hypervisor.js';
import { inBatches } from './in-batches.js';

const stateGroup = 1;
const vcpuTime = /^vcpu\.\d+\.time$/;
const monitorsField = 'dirtyrate.calc_status';
/** Those that have stopped, too; without a wait for a monitor that is in use. */
export const lookFlags = statsFlags & ~1;

/** As libvirt takes it, which looks at the UUID; what it answers has the rest. */
export function byId(uuid: string): Domain {
  return { name: '', uuid, id: -1 };
}

/** Their states only, which libvirt knows without asking any machine. */
export async function statesOfMachines(
  client: LibvirtClient,
  domains: readonly Domain[],
): Promise<DomainView[]> {
  return await inBatches(domains, async (doms) => {
    const args = { doms: [...doms], stats: stateGroup, flags: lookFlags };
    const { retStats } = await client.call('connect_get_all_domain_stats', args);
    return retStats.map(({ dom, params }) => toLook(dom, params));
  });
}

/** Containers have no monitor that could hang. */
export async function lookAtContainers(
  client: LibvirtClient,
  domains: readonly Domain[],
): Promise<DomainView[]> {
  const lookAt = async (dom: Domain): Promise<DomainView[]> => {
    try {
      const { state, reason } = await client.call('domain_get_state', { dom, flags: 0 });
      return [{ id: dom.uuid, ...toState(state, reason) }];
    } catch (error) {
      if (isUnknownDomain(error)) return []; // it has ended meanwhile
      throw error;
    }
  };
  return await inBatches(domains, async (some) => (await Promise.all(some.map(lookAt))).flat());
}

export function toLook(dom: Domain, params: TypedParams): DomainLook {
  let [state, reason, answers] = [0, 0, false];
  let cpuNs: number | undefined;
  for (const { field, value } of params)
    if (field === 'state.state') state = Number(value.value);
    else if (field === 'state.reason') reason = Number(value.value);
    else if (field === monitorsField) answers = true;
    else if (field.endsWith('.time') && vcpuTime.test(field))
      cpuNs = (cpuNs ?? 0) + Number(value.value);
  return {
    id: dom.uuid,
    ...toState(state, reason),
    ...(answers && { answers }),
    ...(cpuNs !== undefined && { cpuMs: Math.round(cpuNs / 1e6) }),
  };
}

/** Halted by something that went wrong, not by an order. */
const stalls: readonly string[] = [
  'I/O error',
  'watchdog',
  'crashed',
] satisfies (typeof pausedReasons)[number][];

/** libvirt's details of the event `stopped`, in words for users. */
const stopReasons: Readonly<Record<string, string>> = {
  shutdown: 'the machine has shut down',
  destroyed: 'the machine was switched off',
  crashed: 'the machine has crashed',
  failed: "the machine's process on the host has ended unexpectedly",
};

/** The same by libvirt's numbers for the state `shutoff`, of those that have words. */
const shutoffReasons: Readonly<Record<number, string | undefined>> = {
  1: stopReasons['shutdown'],
  2: stopReasons['destroyed'],
  3: stopReasons['failed'], // QEMU went without a word; a guest that crashes has a state of its own
  6: stopReasons['failed'],
};

/** libvirt's numbers, as answers of `domain_get_state` have them. */
export function toState(
  state: number,
  reason: number,
): Pick<DomainView, 'state' | 'reason' | 'isMoving'> {
  const name = domainStates[state] ?? 'none';
  switch (name) {
    case 'shutoff':
      return { state: 'stopped', reason: shutoffReasons[reason] ?? 'the machine has stopped' };
    case 'crashed':
      return { state: 'stopped', reason: 'the machine has crashed' };
    case 'pm-suspended':
      return { state: 'paused', reason: 'the machine sleeps, by its own order' };
    case 'paused':
      return toPause(pausedReasons[reason] ?? 'unknown');
    case 'none':
    case 'running':
    case 'blocked':
    case 'shutdown':
      return { state: 'running', reason: 'the machine runs' };
  }
}

/** @param why libvirt's word */
function toPause(why: string): Pick<DomainView, 'state' | 'reason' | 'isMoving'> {
  if (why === 'starting up')
    return { state: 'running', reason: 'the machine starts', isMoving: true };
  if (why === 'save')
    return { state: 'paused', reason: 'the machine is paused: save', isMoving: true };
  return stalls.includes(why)
    ? { state: 'stalled', reason: `the machine was halted: ${why}` }
    : { state: 'paused', reason: `the machine is paused: ${why}` };
}

/** @returns `undefined`: it says nothing about the domain running or not */
export function viewOfEvent({ dom, event, detail }: Lifecycle): DomainView | undefined {
  if (event === 'stopped')
    return {
      id: dom.uuid,
      state: 'stopped',
      reason: stopReasons[detail] ?? `the machine has stopped: ${detail}`,
    };
  if (event === 'started' || event === 'resumed')
    return { id: dom.uuid, state: 'running', reason: 'the machine runs' };
  if (event === 'suspended')
    return { id: dom.uuid, ...toPause(detail === 'paused' ? 'by order' : detail) };
  if (event === 'pm-suspended') return { id: dom.uuid, ...toState(7, 0) };
  return undefined;
}
