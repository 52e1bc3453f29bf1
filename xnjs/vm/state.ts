import { GridError } from '#kernel/errors.js';
import { without } from '../job/without.js';
import type { BootTimeline, Evidence, TargetSystem } from './target-system.js';
import {
  believe,
  look,
  viewsOf,
  type AliveState,
  type DomainWord,
  type GuestWord,
  type Views,
} from './views.js';

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
  stopped: 'FAILED',
  freeze: 'PAUSED',
  frozen: 'SUSPENDED',
  thaw: alive,
  destroy: 'DESTROYING',
} as const;
const whileStarting = without(whileAlive, 'freeze');

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
    stopped: 'FAILED',
    freeze: 'SUSPENDED',
    frozen: 'SUSPENDED',
    thaw: 'UNREACHABLE',
    destroy: 'DESTROYING',
  },
  FAILED: {
    agentUp: 'FAILED',
    agentDown: 'FAILED',
    domain: 'FAILED',
    guest: 'FAILED',
    stopped: 'FAILED',
    failed: 'FAILED',
    frozen: 'FAILED',
    destroy: 'DESTROYING',
  },
  DESTROYING: {
    agentUp: 'DESTROYING',
    agentDown: 'DESTROYING',
    domain: 'DESTROYING',
    guest: 'DESTROYING',
    stopped: 'DESTROYING',
    failed: 'DESTROYING',
    frozen: 'DESTROYING',
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
  /** The hypervisor says that the domain does not run. */
  | { type: 'stopped'; evidence: Evidence }
  /** It is to be parked on disk: by its owner, or for nobody uses it. */
  | { type: 'freeze'; evidence: Evidence }
  /** It stopped, and what was in its memory is on disk. */
  | { type: 'frozen'; evidence: Evidence }
  /** It is to run again; also what becomes of one that could not be parked. */
  | { type: 'thaw'; evidence: Evidence }
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
  const again = event.type === 'stopped' ? restart(current, event.evidence) : undefined;
  if (again) return again;
  if (event.type === 'freeze' || event.type === 'frozen')
    return park(current, next, event.evidence);
  if (event.type === 'thaw') return thaw(current, event.evidence);
  if (next === alive) return stepAlive(current, event);
  // The first failure is the cause; what follows from it must not overwrite it.
  if (next === current.state) return current;
  return { ...current, state: next, evidence: event.evidence };
}

/** So often within so long a machine is started again; one that ends all the time is of no use to anybody. */
const mostRestarts = 3;
const restartsWithinMs = 3_600_000;

/** Once its old machine is proven to have stopped, one that was ready before may have another. */
function restart(current: TargetSystem, evidence: Evidence): TargetSystem | undefined {
  const { recovery = 'none', recoveredMs = [], generation = 1 } = current;
  const { atMs, fact } = evidence;
  const lately = recoveredMs.filter((ms) => atMs - ms < restartsWithinMs);
  const wasReady = isAlive(current) && viewsOf(current).agent !== undefined;
  if (recovery !== 'restart' || !wasReady || lately.length >= mostRestarts) return undefined;
  return {
    ...without(current, 'desired', 'frozenSinceMs', 'facts'),
    state: 'INITIALIZING',
    evidence: { ...evidence, fact: `started again: ${fact}` },
    ...{ views: {}, boot: {}, bootFromMs: atMs, lostJobs: fact },
    ...{ generation: generation + 1, recoveredMs: [...lately, atMs] },
  };
}

function park(current: TargetSystem, next: string, evidence: Evidence): TargetSystem {
  const isDone = next === current.state && current.desired === 'suspended';
  if (isDone || next === 'FAILED' || next === 'DESTROYING') return current;
  const { frozenSinceMs = evidence.atMs } = current;
  // as: the other cells of these two events
  const state = next as 'PAUSED' | 'SUSPENDED';
  return { ...current, state, evidence, desired: 'suspended', frozenSinceMs };
}

/** Its life time is put off by the time that it did not live. */
function thaw(current: TargetSystem, evidence: Evidence): TargetSystem {
  const { desired, frozenSinceMs, terminationMs, ...rest } = current;
  if (desired === undefined) return current;
  const { fact, atMs } = evidence;
  const frozenMs = atMs - (frozenSinceMs ?? atMs);
  return {
    ...rest,
    ...(terminationMs !== undefined && { terminationMs: terminationMs + frozenMs }),
    ...{ state: 'UNREACHABLE', evidence, views: { agent: { says: 'down', fact, sinceMs: atMs } } },
  };
}

function stepAlive(current: TargetSystem, event: VmEvent): TargetSystem {
  // while it is being parked it does not matter what is heard of it
  if (current.desired === 'suspended') return current;
  const before = viewsOf(current);
  const views = see(before, event);
  const isFirst = event.type === 'agentUp' && before.agent === undefined;
  if (views === before && current.views) return current;
  const { state, evidence = current.evidence } = believe(views);
  return {
    ...current,
    ...{ state, evidence, views },
    ...(isFirst && { boot: event.boot }),
  };
}

function see(views: Views, event: VmEvent): Views {
  switch (event.type) {
    case 'agentUp':
      return look(views, 'agent', 'up', event.evidence);
    case 'agentDown':
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

const aliveNames: ReadonlySet<string> = new Set([
  'INITIALIZING',
  'READY',
  'DEGRADED',
  'UNREACHABLE',
  'PAUSED',
] satisfies AliveState[]);

/** There is a machine, as far as we know. */
export function isAlive({ state }: Pick<TargetSystem, 'state'>): boolean {
  return aliveNames.has(state);
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
