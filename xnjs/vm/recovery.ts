import { without } from '../job/without.js';
import { keepBoot } from './later-starts.js';
import { abandon, restoreLast } from './snapshots/steps.js';
import type { VmEvent } from './state.js';
import type { Evidence, TargetSystem } from './target-system.js';
import { isAlive, viewsOf } from './views.js';

/*
 * What becomes of a target system that has no machine any more: the cells of `transitions` whose events are below. Pure.
 */

/** Where a machine is to be that was elsewhere. */
export type Place = Pick<TargetSystem, 'host' | 'placement' | 'cores'>;

/** Where one goes on whose host was declared lost. */
export type Refuge = Place & {
  /** Saved memory of it can be restored there. */
  readonly canRestore: boolean;
};

/** So often within so long a machine is started again; one that ends all the time is of no use to anybody. */
const mostRestarts = 3;
const restartsWithinMs = 3_600_000;

/** There is no machine any more; by its recovery there will be another. */
export function stop(before: TargetSystem, evidence: Evidence): TargetSystem {
  if (before.state === 'FAILED') return before;
  const current = abandon(before, evidence);
  const failed = { ...current, state: 'FAILED', evidence } as const;
  if (!mayRecover(before, evidence.atMs)) return failed;
  return restart(current, evidence, current.recovery === 'restore');
}

/** As {@link stop}, on an administrator's word: another machine there will be on another host only. */
export function loseHost(
  before: TargetSystem,
  { evidence, refuge, filesLost }: Extract<VmEvent, { type: 'hostLost' }>,
): TargetSystem {
  const lost = { lostWithHost: filesLost ? 'files' : 'machine' } as const;
  if (before.state === 'FAILED' || before.state === 'DESTROYING') {
    if (before.lostWithHost) return before;
    return { ...(filesLost ? without(before, 'snapshots', 'undertaking') : before), ...lost };
  }
  const current = abandon(filesLost ? without(before, 'snapshots') : before, evidence);
  if (!refuge || !mayRecover(before, evidence.atMs))
    return { ...current, state: 'FAILED', evidence, ...lost };
  const { canRestore, ...place } = refuge;
  const isRestored = canRestore && current.recovery === 'restore';
  const next = restart(without(current, 'parkedOn', 'cores'), evidence, isRestored);
  return { ...next, ...place };
}

/** Whether one that has stopped is to have another machine: it was ready before, and does not end all the time. */
export function mayRecover(system: TargetSystem, atMs: number): boolean {
  const { recovery = 'none', undertaking } = system;
  const wasReady = isAlive(system) && viewsOf(system).agent !== undefined;
  if (undertaking?.hadFailed || recovery === 'none' || !wasReady) return false;
  return lately(system, atMs).length < mostRestarts;
}

function lately({ recoveredMs = [] }: TargetSystem, atMs: number): number[] {
  return recoveredMs.filter((ms) => atMs - ms < restartsWithinMs);
}

/** Once its old machine is proven to have stopped, one that was ready before may have another. */
function restart(current: TargetSystem, evidence: Evidence, isRestored: boolean): TargetSystem {
  const { recovery, generation = 1 } = current;
  const { atMs, fact } = evidence;
  const times = { recoveredMs: [...lately(current, atMs), atMs] };
  const restored = isRestored ? restoreLast(current, evidence) : undefined;
  if (restored) return { ...restored, ...times };
  const cold = recovery === 'restore' ? ', since there is no snapshot that could be restored' : '';
  return {
    // it is another machine, which proves itself anew
    ...without(
      current,
      'desired',
      'frozenSinceMs',
      'isMaintained',
      'parkedOn',
      'facts',
      'reverted',
      'isBehind',
      'enrolment',
    ),
    state: 'INITIALIZING',
    evidence: { ...evidence, fact: `started again${cold}: ${fact}` },
    start: { tier: 'cold', reason: `started again${cold}` },
    ...keepBoot(current),
    ...{ views: {}, boot: {}, bootFromMs: atMs, lostJobs: fact },
    ...{ generation: generation + 1, ...times },
  };
}
