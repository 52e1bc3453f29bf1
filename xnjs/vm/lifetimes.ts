import type { Clock } from '#kernel/clock.js';
import type { Mortals } from '../reaper.js';
import { driverAbilities } from './hosts/driver-abilities.js';
import { isAlive } from './views.js';
import type { SystemRecords } from './system-records.js';
import type { TargetSystem } from './target-system.js';

export type LifetimesOptions = {
  readonly records: Pick<SystemRecords, 'all' | 'get'>;
  readonly freeze: (id: string, fact: string) => Promise<void>;
  readonly end: (id: string, fact: string) => Promise<void>;
  /** The longest that one may be parked; absent: any time. */
  readonly maxFrozenMs: number | undefined;
  readonly clock: Clock;
};

/** One that could not be parked at the end of its life is tried again. */
const againMs = 60_000;

/** Target systems whose time is over: ended, or parked where their owners wish so. */
export function lifetimes(options: LifetimesOptions): Mortals[] {
  const { records, freeze, end, maxFrozenMs = Infinity, clock } = options;
  const triedMs = new Map<string, number>();
  const over = 'its life time is over';
  const isExpired = (system: TargetSystem, nowMs: number): boolean => {
    const { id, terminationMs = Infinity, state, desired } = system;
    if (terminationMs > nowMs || state === 'DESTROYING' || desired !== undefined) return false;
    return !isParkedAtEnd(system) || (triedMs.get(id) ?? 0) + againMs <= nowMs;
  };
  return [
    {
      what: 'target system',
      expired: (nowMs) => idsOf(records, (system) => isExpired(system, nowMs)),
      end: async (id) => {
        if (isParkedAtEnd(records.get(id))) {
          triedMs.set(id, clock.now());
          await freeze(id, `is being parked on disk: ${over}`);
        } else await end(id, over);
      },
    },
    {
      what: 'parked target system',
      expired: (nowMs) =>
        idsOf(
          records,
          ({ state, desired, frozenSinceMs = Infinity }) =>
            state !== 'DESTROYING' &&
            desired === 'suspended' &&
            nowMs - frozenSinceMs >= maxFrozenMs,
        ),
      end: (id) => end(id, 'it was parked for as long as this site allows'),
    },
  ];
}

/** There is something that could be. */
function isParkedAtEnd(system: TargetSystem): boolean {
  return system.endAction === 'freeze' && driverAbilities[system.driver].freeze && isAlive(system);
}

function* idsOf(
  records: LifetimesOptions['records'],
  concerns: (system: TargetSystem) => boolean,
): Iterable<string> {
  for (const system of records.all()) if (concerns(system)) yield system.id;
}
