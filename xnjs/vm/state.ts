import { GridError } from '#kernel/errors.js';
import type { BootTimeline, Evidence, TargetSystem } from './target-system.js';

export class VmError extends GridError<
  | 'VM_ILLEGAL_EVENT'
  | 'VM_NOT_READY'
  | 'NOT_FOUND'
  | 'BAD_REQUEST'
  | 'STORAGE_FULL'
  | 'IMAGE_INVALID'
  | 'IMAGE_UNKNOWN'
> {}

/**
 * The life of a target system's virtual machine. A missing cell is an illegal event; late answers are
 * cells too. `agentDown` alone never leads to FAILED: silence is no evidence of death.
 */
export const transitions = {
  INITIALIZING: {
    agentUp: 'READY',
    agentDown: 'INITIALIZING',
    stopped: 'FAILED',
    failed: 'FAILED',
    destroy: 'DESTROYING',
  },
  READY: {
    agentUp: 'READY',
    agentDown: 'UNREACHABLE',
    stopped: 'FAILED',
    destroy: 'DESTROYING',
  },
  UNREACHABLE: {
    agentUp: 'READY',
    agentDown: 'UNREACHABLE',
    stopped: 'FAILED',
    destroy: 'DESTROYING',
  },
  FAILED: {
    agentUp: 'FAILED',
    agentDown: 'FAILED',
    stopped: 'FAILED',
    failed: 'FAILED',
    destroy: 'DESTROYING',
  },
  DESTROYING: {
    agentUp: 'DESTROYING',
    agentDown: 'DESTROYING',
    stopped: 'DESTROYING',
    failed: 'DESTROYING',
    destroy: 'DESTROYING',
    removed: 'DESTROYED',
  },
  DESTROYED: { destroy: 'DESTROYED' },
} as const satisfies Record<string, Partial<Record<VmEvent['type'], string>>>;

export type VmState = keyof typeof transitions;

export type VmEvent =
  /** The agent answered over the hypervisor's channel. */
  | { type: 'agentUp'; evidence: Evidence; boot: BootTimeline }
  | { type: 'agentDown'; evidence: Evidence }
  /** The hypervisor says that the domain does not run. */
  | { type: 'stopped'; evidence: Evidence }
  /** It could not be started, or its agent never answered. */
  | { type: 'failed'; evidence: Evidence }
  | { type: 'destroy'; evidence: Evidence }
  /** Domain and files are proven gone. */
  | { type: 'removed'; evidence: Evidence };

/**
 * Pure: no clock, no I/O. What a state asks for is done by the controller's `reconcile`, which looks at
 * the state alone, so that it can be repeated at any time.
 * @throws {@link VmError} `VM_ILLEGAL_EVENT`
 */
export function step(current: TargetSystem, event: VmEvent): TargetSystem {
  const row: Partial<Record<VmEvent['type'], VmState>> = transitions[current.state];
  const state = row[event.type];
  if (state === undefined)
    throw new VmError(
      'VM_ILLEGAL_EVENT',
      `${event.type} cannot happen to a target system in state ${current.state}`,
      {
        vmId: current.id,
      },
    );
  // The first failure is the cause; what follows from it must not overwrite it.
  const news = state !== 'FAILED' || current.state !== 'FAILED';
  return {
    ...current,
    state,
    ...(news && { evidence: event.evidence }),
    ...(event.type === 'agentUp' && current.state === 'INITIALIZING' && { boot: event.boot }),
  };
}
