import { randomBytes } from 'node:crypto';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import { hostName } from '../domain-xml.js';
import type { VmState } from '../state.js';
import type { TargetSystem } from '../target-system.js';

const over: ReadonlySet<VmState> = new Set(['FAILED', 'DESTROYING', 'DESTROYED']);

/** Whether the machine ran before it was this target system's: then it has to become another one. */
export function needsIdentity({
  state,
  start,
  boot,
}: Pick<TargetSystem, 'state' | 'start' | 'boot'>): boolean {
  if (boot.identityMs !== undefined || over.has(state)) return false;
  return start?.tier === 'spare' || start?.tier === 'warm';
}

/** Another one at each call: what has been sent and not confirmed is of no use to anybody. */
export function newIdentity(
  system: Pick<TargetSystem, 'id' | 'start'>,
  nowMs: number,
): MachineIdentity {
  return {
    hostName: hostName(system),
    machineId: randomBytes(16).toString('hex'),
    seed: randomBytes(64).toString('base64'),
    timeMs: nowMs,
    isCopy: system.start?.tier === 'warm',
  };
}
