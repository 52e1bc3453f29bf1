import { without } from '../../job/without.js';
import { beginStart, dropStart, keepBoot, markStart } from '../later-starts.js';
import type { VmEvent } from '../state.js';
import type { ChangeableName, Evidence, TargetSystem } from '../target-system.js';
import { findSnapshot, lastSnapshot, withSnapshot, type Snapshot } from './snapshot.js';

/*
 * What becomes of a record while its machine is kept or put back (ADR 037): the cells of `transitions` whose
 * events are below. Pure.
 */
type StepEvent<T extends VmEvent['type']> = Extract<VmEvent, { type: T }>;

export function capture(
  current: TargetSystem,
  { snapshot, evidence }: StepEvent<'capture'>,
): TargetSystem {
  const { snapshots = [] } = current;
  return {
    ...current,
    // why one is off stays known
    ...(current.state !== 'FAILED' && { state: standing(current), evidence }),
    snapshots: [...snapshots.filter(({ state }) => state !== 'FAILED'), snapshot],
    undertaking: { do: 'snapshot', snapshotId: snapshot.id },
  };
}

export function revert(
  current: TargetSystem,
  { snapshotId, evidence, place }: StepEvent<'revert'>,
): TargetSystem {
  const state = standing(current);
  const undertaking = { do: 'revert', snapshotId } as const;
  const begun = state === 'SUSPENDED' ? {} : beginStart(current, 'revert', evidence);
  if (current.state !== 'FAILED') return { ...current, ...begun, state, evidence, undertaking };
  // what was wanted of the machine that has stopped is not wanted of the next
  const base = without(
    current,
    'desired',
    'frozenSinceMs',
    'isMaintained',
    'parkedOn',
    'lostWithHost',
  );
  return {
    ...{ ...base, ...place, ...begun, state, evidence },
    undertaking: { ...undertaking, hadFailed: true },
  };
}

/** Its former machine is proven gone; what comes is the next. */
export function fence(current: TargetSystem, evidence: Evidence): TargetSystem {
  const { undertaking, generation = 1 } = current;
  const snapshot = undertaking && findSnapshot(current, undertaking.snapshotId);
  if (undertaking?.do !== 'revert' || undertaking.isFenced || !snapshot) return current;
  const { name, atMs = snapshot.createdMs, enrolment } = snapshot;
  const date = new Date(atMs).toISOString();
  return {
    ...without(current, 'facts', 'lostJobs', 'enrolment'),
    ...{ evidence, generation: generation + 1, ...(enrolment && { enrolment }) },
    undertaking: { ...undertaking, isFenced: true },
    reverted: {
      toMs: atMs,
      reason: `its machine was put back to the snapshot "${name}" of ${date}`,
      step: 'tell',
    },
  };
}

/** Done, or given up: the machine goes on, or stays on disk. */
export function resume(
  current: TargetSystem,
  { evidence, snapshot }: StepEvent<'resumed'>,
): TargetSystem {
  const { undertaking, ...rest } = current;
  if (!undertaking) return current;
  const { snapshotId } = undertaking;
  const isReverted = undertaking.isFenced === true;
  const known = findSnapshot(current, snapshotId);
  const next = {
    ...(isReverted
      ? withoutMessage(rest, snapshotId)
      : withSnapshot(rest, snapshotId, snapshot ?? {})),
    ...{ evidence, isBehind: true as const },
    ...(isReverted && known && changedSince(current, known)),
  };
  if (current.state === 'FAILED') return withSnapshot(rest, snapshotId, snapshot ?? {});
  if (isReverted && known?.isDiskOnly) return boot(next, evidence);
  if (current.desired === 'suspended')
    return { ...next, ...dropStart(current), state: 'SUSPENDED' };
  const { fact, atMs } = evidence;
  const start = isReverted ? markStart(current, 'restoredMs', atMs) : dropStart(current);
  const views = { agent: { says: 'down' as const, fact, sinceMs: atMs } };
  return { ...next, ...(undertaking.do === 'revert' && start), state: 'UNREACHABLE', views };
}

/** Only its disk was kept: it is another machine, which proves itself anew. */
function boot(before: TargetSystem, evidence: Evidence): TargetSystem {
  const current = { ...before, ...dropStart(before) };
  return {
    ...without(current, 'isBehind', 'enrolment'),
    ...keepBoot(current),
    ...{ state: 'INITIALIZING', evidence, views: {}, boot: {}, bootFromMs: evidence.atMs },
    start: { tier: 'cold', reason: 'the snapshot has no memory' },
  };
}

/** There is no machine any more that it could go on with. */
export function abandon(current: TargetSystem, { fact }: Evidence): TargetSystem {
  const { undertaking, ...rest } = current;
  if (!undertaking) return current;
  const isComplete = findSnapshot(current, undertaking.snapshotId)?.state === 'READY';
  if (undertaking.do === 'snapshot' && isComplete) return rest;
  const change: Partial<Snapshot> =
    undertaking.do === 'snapshot'
      ? { state: 'FAILED', message: fact, sizeMiB: 0 }
      : { message: `it could not be restored: ${fact}` };
  const start = undertaking.do === 'revert' ? dropStart(current) : {};
  return withSnapshot({ ...rest, ...start }, undertaking.snapshotId, change);
}

/** How one goes on that is to be restored when it has stopped; `undefined`: no snapshot is left that could be. */
export function restoreLast(current: TargetSystem, evidence: Evidence): TargetSystem | undefined {
  const snapshot = lastSnapshot(current);
  if (!snapshot) return undefined;
  const fact = `is being restored from the snapshot "${snapshot.name}": ${evidence.fact}`;
  return {
    ...without(current, 'desired', 'frozenSinceMs', 'isMaintained'),
    ...{ state: 'PAUSED', evidence: { ...evidence, fact } },
    ...beginStart(current, 'restore', { ...evidence, fact }),
    undertaking: { do: 'revert', snapshotId: snapshot.id },
  };
}

/** Nothing is wrong with a snapshot that has been restored. */
function withoutMessage<S extends Pick<TargetSystem, 'snapshots'>>(system: S, id: string): S {
  const snapshots = (system.snapshots ?? []).map((each) =>
    each.id === id ? without(each, 'message') : each,
  );
  return { ...system, snapshots };
}

/** One that is parked stays so. */
function standing({ state }: TargetSystem): 'PAUSED' | 'SUSPENDED' {
  return state === 'SUSPENDED' ? state : 'PAUSED';
}

/** What a machine is made with. */
function isFixed(name: string): boolean {
  return name === 'cpus' || name === 'memoryMaxMiB' || name === 'diskMiB';
}

/** What the machine has as it had then, and is to have as its record says. */
function changedSince(
  { parameters, unapplied = [] }: TargetSystem,
  snapshot: Snapshot,
): Pick<TargetSystem, 'unapplied'> {
  const all = Object.keys({ ...snapshot.parameters, ...parameters }) as (keyof typeof parameters)[]; // keys of the type
  const changed = all.filter(
    (name): name is ChangeableName =>
      !isFixed(name) && parameters[name] !== snapshot.parameters[name],
  );
  const names = [...new Set([...unapplied, ...changed])];
  return names.length > 0 ? { unapplied: names } : {};
}
