import {
  bootBaseMs,
  type BootTimeline,
  type Evidence,
  type MachineStart,
  type TargetSystem,
} from './target-system.js';

/*
 * How a target system came to its machine again: the record holds the last starts beside the one that its `boot`
 * tells of. Pure.
 */

/** One that is frozen each night has its last week. */
const most = 10;

type Starts = Pick<TargetSystem, 'starts'>;

/** From saved memory. */
export function beginStart(
  { starts = [] }: TargetSystem,
  what: 'thaw' | 'revert' | 'restore',
  { fact, atMs }: Evidence,
): Starts {
  return added(starts, { what, tier: 'saved', reason: fact, fromMs: atMs, boot: {} });
}

/** Its machine runs, or its agent answers: only of a start that is under way, and once. */
export function markStart(
  { starts = [] }: TargetSystem,
  mark: 'restoredMs' | 'readyMs',
  atMs: number,
): Starts {
  const last = starts.at(-1);
  if (!last || !isUnderWay(last) || last.boot[mark] !== undefined) return {};
  const boot: BootTimeline = { ...last.boot, [mark]: Math.max(0, atMs - last.fromMs) };
  return { starts: [...starts.slice(0, -1), { ...last, boot }] };
}

/** It was given up before anything ran. */
export function dropStart({ starts = [] }: TargetSystem): Starts {
  const last = starts.at(-1);
  if (!last || !isUnderWay(last) || last.boot.restoredMs !== undefined) return {};
  return { starts: starts.slice(0, -1) };
}

/** What its `boot` tells of is of the past. */
export function keepBoot(system: TargetSystem): Starts {
  return added(system.starts ?? [], bootOf(system));
}

/** All that are known, the oldest first. */
export function startsOf(system: TargetSystem): MachineStart[] {
  return [...(system.starts ?? []), bootOf(system)].sort((a, b) => a.fromMs - b.fromMs);
}

function bootOf(system: TargetSystem): MachineStart {
  const { start, boot, bootFromMs } = system;
  return {
    ...{ what: bootFromMs === undefined ? 'creation' : 'restart', ...start },
    ...{ fromMs: bootBaseMs(system), boot },
  };
}

function isUnderWay({ what, boot }: MachineStart): boolean {
  return what !== 'creation' && what !== 'restart' && boot.readyMs === undefined;
}

function added(starts: readonly MachineStart[], start: MachineStart): Starts {
  return { starts: [...starts, start].slice(-most) };
}
