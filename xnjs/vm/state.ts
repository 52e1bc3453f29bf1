import { GridError } from '#kernel/errors.js';
import { without } from '../job/without.js';
import { beginStart, dropStart, markStart } from './later-starts.js';
import type { Snapshot } from './snapshots/snapshot.js';
import { loseHost, stop, type Place, type Refuge } from './recovery.js';
import { capture, fence, resume, revert } from './snapshots/steps.js';
import type { BootTimeline, Evidence, TargetSystem } from './target-system.js';
import { believe, look, viewsOf, type DomainWord, type GuestWord, type Views } from './views.js';

export class VmError extends GridError<
  | 'VM_ILLEGAL_EVENT'
  | 'VM_NOT_READY'
  | 'NOT_FOUND'
  | 'BAD_REQUEST'
  | 'STORAGE_FULL'
  | 'IMAGE_INVALID'
  | 'IMAGE_UNKNOWN'
> {}

/** In such a cell the state is what is to be believed of all that is known (`aliveStates`). */
const alive = 'alive';

const whileAlive = {
  agentUp: alive,
  agentDown: alive,
  domain: alive,
  guest: alive,
  refused: alive,
  stopped: 'FAILED',
  hostLost: 'FAILED',
  freeze: 'PAUSED',
  frozen: 'SUSPENDED',
  thaw: alive,
  capture: 'PAUSED',
  revert: 'PAUSED',
  fenced: 'PAUSED',
  resumed: alive,
  destroy: 'DESTROYING',
} as const;
const whileStarting = without(whileAlive, 'freeze', 'capture', 'revert', 'fenced', 'resumed');

/**
 * The life of a target system's virtual machine. A missing cell is an illegal event; late answers are
 * cells too. Silence alone, of whomever, never leads to FAILED: it is no evidence of death.
 */
export const transitions = {
  INITIALIZING: { ...whileStarting, failed: 'FAILED' },
  READY: whileAlive,
  DEGRADED: whileAlive,
  UNREACHABLE: whileAlive,
  PAUSED: whileAlive,
  SUSPENDED: {
    agentUp: 'SUSPENDED',
    agentDown: 'SUSPENDED',
    domain: 'SUSPENDED',
    guest: 'SUSPENDED',
    refused: 'SUSPENDED',
    stopped: 'FAILED',
    hostLost: 'FAILED',
    freeze: 'SUSPENDED',
    frozen: 'SUSPENDED',
    thaw: alive,
    capture: 'SUSPENDED',
    revert: 'SUSPENDED',
    fenced: 'SUSPENDED',
    resumed: 'SUSPENDED',
    destroy: 'DESTROYING',
  },
  FAILED: {
    agentUp: 'FAILED',
    agentDown: 'FAILED',
    domain: 'FAILED',
    guest: 'FAILED',
    refused: 'FAILED',
    stopped: 'FAILED',
    hostLost: 'FAILED',
    failed: 'FAILED',
    frozen: 'FAILED',
    capture: 'FAILED',
    revert: 'PAUSED',
    fenced: 'FAILED',
    resumed: 'FAILED',
    destroy: 'DESTROYING',
  },
  DESTROYING: {
    agentUp: 'DESTROYING',
    agentDown: 'DESTROYING',
    domain: 'DESTROYING',
    guest: 'DESTROYING',
    refused: 'DESTROYING',
    stopped: 'DESTROYING',
    hostLost: 'DESTROYING',
    failed: 'DESTROYING',
    frozen: 'DESTROYING',
    fenced: 'DESTROYING',
    resumed: 'DESTROYING',
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
  /** What the hypervisor says of a domain that has not stopped. */
  | { type: 'domain'; says: DomainWord; evidence: Evidence }
  | { type: 'guest'; says: GuestWord; evidence: Evidence }
  /** What answered has not proved to be the machine. */
  | { type: 'refused'; evidence: Evidence }
  /** The hypervisor says that the domain does not run. */
  | { type: 'stopped'; evidence: Evidence }
  /**
   * Its host was declared lost: by an administrator's word nothing of it runs any more. `refuge`: where it can go on;
   * `filesLost`: its files were there only.
   */
  | { type: 'hostLost'; evidence: Evidence; refuge?: Refuge; filesLost: boolean }
  /** It is to be parked on disk: by its owner, or for nobody uses it. */
  | { type: 'freeze'; evidence: Evidence; isMaintained?: true }
  /** It stopped, and what was in its memory is on disk. */
  | { type: 'frozen'; evidence: Evidence }
  /** It is to run again; also what becomes of one that could not be parked. */
  | { type: 'thaw'; evidence: Evidence }
  /** It is to be kept as it is now: memory and disk; of one that is off, its disk. */
  | { type: 'capture'; snapshot: Snapshot; evidence: Evidence }
  /** It is to be what it was when a snapshot was taken; `place`: and where, if its own host was declared lost. */
  | { type: 'revert'; snapshotId: string; evidence: Evidence; place?: Place }
  /** The machine that is to be replaced by that is proven gone. */
  | { type: 'fenced'; evidence: Evidence }
  /** Either is done, or cannot be: the machine goes on. `snapshot`: what is new of it. */
  | { type: 'resumed'; snapshot?: Partial<Snapshot>; evidence: Evidence }
  /** It could not be started, or its agent never answered. */
  | { type: 'failed'; evidence: Evidence }
  | { type: 'destroy'; evidence: Evidence }
  /** Domain and files are proven gone. */
  | { type: 'removed'; evidence: Evidence };

/**
 * Pure: no clock, no I/O. What a state asks for is done by the controller's `reconcile`, which looks at
 * the state alone, so that it can be repeated at any time.
 * @returns the same object where nothing is new
 * @throws {@link VmError} `VM_ILLEGAL_EVENT`
 */
export function step(current: TargetSystem, event: VmEvent): TargetSystem {
  const row: Partial<Record<VmEvent['type'], VmState | typeof alive>> = transitions[current.state];
  const next = row[event.type];
  if (next === undefined)
    throw new VmError(
      'VM_ILLEGAL_EVENT',
      `${event.type} cannot happen to a target system in state ${current.state}`,
      {
        vmId: current.id,
      },
    );
  refuseWhileUndertaking(current, event);
  if (event.type === 'hostLost') return loseHost(current, event);
  if (event.type === 'stopped' && next === 'FAILED') return stop(current, event.evidence);
  if (next === alive || next === 'PAUSED' || next === 'SUSPENDED')
    return stepThere(current, event, next);
  if (current.state === 'FAILED' && event.type === 'capture') return capture(current, event);
  if (current.state === 'FAILED' && event.type === 'resumed') return resume(current, event);
  // The first failure is the cause; what follows from it must not overwrite it.
  if (next === current.state) return current;
  return { ...current, state: next, evidence: event.evidence };
}

/** What leaves a machine there. */
function stepThere(
  current: TargetSystem,
  event: VmEvent,
  next: 'PAUSED' | 'SUSPENDED' | typeof alive,
): TargetSystem {
  switch (event.type) {
    case 'freeze':
    case 'frozen':
      return next === alive ? current : park(current, next, event);
    case 'thaw':
      return thaw(current, event.evidence);
    case 'capture':
      return capture(current, event);
    case 'revert':
      return revert(current, event);
    case 'fenced':
      return fence(current, event.evidence);
    case 'resumed':
      return resume(current, event);
    default:
      return next === alive ? stepAlive(current, event) : current;
  }
}

const orders: ReadonlySet<VmEvent['type']> = new Set(['freeze', 'thaw', 'capture', 'revert']);
const undertakings = {
  snapshot: 'a snapshot is being taken',
  revert: 'it is being put back to a snapshot',
};

/** One thing after the other. @throws {@link VmError} `VM_ILLEGAL_EVENT` */
function refuseWhileUndertaking({ id, undertaking }: TargetSystem, { type }: VmEvent): void {
  if (!undertaking || !orders.has(type)) return;
  throw new VmError('VM_ILLEGAL_EVENT', `${type}: ${undertakings[undertaking.do]}`, { vmId: id });
}

function park(
  current: TargetSystem,
  state: 'PAUSED' | 'SUSPENDED',
  event: Extract<VmEvent, { type: 'freeze' | 'frozen' }>,
): TargetSystem {
  if (state === current.state && current.desired === 'suspended') return current;
  const { evidence } = event;
  const { frozenSinceMs = evidence.atMs } = current;
  const isMaintained = event.type === 'freeze' && event.isMaintained;
  return {
    ...current,
    ...(event.type === 'frozen' && dropStart(current)),
    ...{ state, evidence, desired: 'suspended', frozenSinceMs },
    ...(isMaintained && { isMaintained }),
  };
}

/** Its life time is put off by the time that it did not live. */
function thaw(current: TargetSystem, evidence: Evidence): TargetSystem {
  const { desired, terminationMs, putOff = [] } = current;
  if (desired === undefined) return current;
  const { frozenSinceMs: sinceMs = evidence.atMs, lifetimeFromMs = 0 } = current;
  const { fact, atMs } = evidence;
  const frozenMs = atMs - Math.max(sinceMs, lifetimeFromMs);
  const rest = without(current, 'desired', 'frozenSinceMs', 'isMaintained');
  return {
    ...rest,
    putOff: [...putOff, { sinceMs, untilMs: atMs }],
    ...(terminationMs !== undefined && { terminationMs: terminationMs + frozenMs }),
    ...{ state: 'UNREACHABLE', evidence, views: { agent: { says: 'down', fact, sinceMs: atMs } } },
    // one that could not be parked has run all the time
    ...(current.state === 'SUSPENDED' && beginStart(current, 'thaw', evidence)),
    isBehind: true,
  };
}

function stepAlive(current: TargetSystem, event: VmEvent): TargetSystem {
  // while it is being parked, kept or put back it does not matter what is heard of it
  if (current.desired === 'suspended' || current.undertaking) return current;
  const before = viewsOf(current);
  const views = see(before, event);
  if (event.type === 'refused' && before.agent === undefined)
    return current.evidence.fact === event.evidence.fact
      ? current
      : { ...current, evidence: event.evidence };
  const isFirst = event.type === 'agentUp' && before.agent === undefined;
  if (views === before && current.views) return current;
  const { state, evidence = current.evidence } = believe(views);
  return {
    ...current,
    ...{ state, evidence, views },
    ...(isFirst && { boot: event.boot }),
    ...progress(current, event),
    ...(stoodStill(before, views) && { isBehind: true as const }),
  };
}

/** Of a start from saved memory that is under way. */
function progress(current: TargetSystem, event: VmEvent): Pick<TargetSystem, 'starts'> {
  const { atMs } = event.evidence;
  if (event.type === 'agentUp') return markStart(current, 'readyMs', atMs);
  const runs = event.type === 'domain' && event.says === 'running';
  return runs ? markStart(current, 'restoredMs', atMs) : {};
}

/** Its clock did, too. */
function stoodStill({ hypervisor: before }: Views, { hypervisor: now }: Views): boolean {
  return (
    now?.says === 'running' && before !== undefined && !['running', 'silent'].includes(before.says)
  );
}

function see(views: Views, event: VmEvent): Views {
  switch (event.type) {
    case 'agentUp':
      return look(views, 'agent', 'up', event.evidence);
    case 'agentDown':
    case 'refused':
      // one that has never answered still starts
      return views.agent ? look(views, 'agent', 'down', event.evidence) : views;
    case 'domain':
      return look(views, 'hypervisor', event.says, event.evidence);
    case 'guest':
      return look(views, 'guest', event.says, event.evidence);
    default:
      return views;
  }
}

/** Its machine is proven gone, or about to be. */
export function isGone({ state }: Pick<TargetSystem, 'state'>): boolean {
  return state === 'FAILED' || state === 'DESTROYING' || state === 'DESTROYED';
}

/** Jobs and files can be worked with: its agent answers, whatever else may be wrong. */
export function isUsable(system: TargetSystem): boolean {
  if (system.state !== 'READY' && system.state !== 'DEGRADED') return false;
  const { agent, hypervisor } = viewsOf(system);
  return agent?.says === 'up' && hypervisor?.says !== 'stalled';
}
