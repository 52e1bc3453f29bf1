import { randomBytes } from 'node:crypto';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import { hostName } from '../domain-xml.js';
import type { VmState } from '../state.js';
import { viewsOf } from '../views.js';
import type { TargetSystem } from '../target-system.js';

const over: ReadonlySet<VmState> = new Set(['FAILED', 'DESTROYING', 'DESTROYED']);

/** Whether its machine was started from its image: at first, or again later. */
export function isBooted({
  start,
  bootFromMs,
}: Pick<TargetSystem, 'start' | 'bootFromMs'>): boolean {
  return bootFromMs !== undefined || (start?.tier !== 'spare' && start?.tier !== 'warm');
}

/** Whether the machine ran before it was this target system's: then it has to become another one. */
export function needsIdentity(
  system: Pick<TargetSystem, 'state' | 'start' | 'boot' | 'bootFromMs'>,
): boolean {
  const { state, boot } = system;
  return !isBooted(system) && boot.identityMs === undefined && !over.has(state);
}

/**
 * Whether others are booted from the same files, and nothing else tells this one who it is: before it is READY for
 * the first time it becomes another one. A seed disk tells it; of a kernel and its first file system nothing lasts,
 * and what that makes at each boot is its own.
 */
export function sharesIdentity(system: TargetSystem): boolean {
  const { boot, generation = 1, image } = system;
  const { format, contextualisation } = image.metadata;
  const isFirst = generation === 1 && viewsOf(system).agent === undefined;
  const isTold = contextualisation?.nocloud === true || format === 'kernel';
  return isFirst && !isTold && isBooted(system) && boot.identityMs === undefined;
}

/** Another one at each call: what has been sent and not confirmed is of no use to anybody. */
export function newIdentity(
  machine: Pick<TargetSystem, 'id'>,
  nowMs: number,
  how: Pick<MachineIdentity, 'isCopy' | 'isRehearsal'>,
): MachineIdentity {
  return {
    hostName: hostName(machine),
    machineId: randomBytes(16).toString('hex'),
    seed: randomBytes(64).toString('base64'),
    timeMs: nowMs,
    ...how,
  };
}
