import { isUsable, type VmState } from './state.js';
import type { TargetSystem } from './target-system.js';

/** Of UNICORE's words for a resource those that we use. */
export type ResourceStatus = 'INITIALIZING' | 'READY' | 'DISABLED' | 'ERROR' | 'SHUTTING_DOWN';

const words = {
  INITIALIZING: 'INITIALIZING',
  READY: 'READY',
  DEGRADED: 'ERROR',
  UNREACHABLE: 'ERROR',
  PAUSED: 'DISABLED',
  SUSPENDED: 'DISABLED',
  FAILED: 'ERROR',
  DESTROYING: 'SHUTTING_DOWN',
  DESTROYED: 'SHUTTING_DOWN',
} as const satisfies Record<VmState, ResourceStatus>;

/** How a state looks to clients that know UNICORE's `resourceStatus` only. */
export function toResourceStatus(state: VmState, usable: boolean): ResourceStatus {
  return usable ? 'READY' : words[state];
}

/** The same of a target system: one with something wrong is ready while work can be done there. */
export function resourceStatusOf(system: TargetSystem): ResourceStatus {
  return toResourceStatus(system.state, isUsable(system));
}
