import { finished, type Duplex } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import type { Mortals } from '../reaper.js';
import { driverAbilities } from './hosts/driver-abilities.js';
import type { VmState } from './state.js';
import type { SystemRecords } from './system-records.js';
import type { TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

export type UnusedOptions = {
  readonly idle: NonNullable<TargetSystemsOptions['idle']>;
  readonly clock: Clock;
  readonly records: Pick<SystemRecords, 'all' | 'get'>;
  readonly freeze: (id: string, fact: string) => Promise<void>;
  readonly end: (id: string, fact: string) => Promise<void>;
};

/** Of these it makes sense to say that nobody uses them. */
const endable: ReadonlySet<VmState> = new Set(['READY', 'DEGRADED']);

/** Finds the target systems that nobody has worked with for a while, and parks or ends them. */
export class Unused {
  readonly #options: UnusedOptions;
  /** When somebody last wanted to work there, or could again. */
  readonly #usedMs = new Map<string, number>();
  /** How many work there by a connection of their own. */
  readonly #open = new Map<string, number>();

  constructor(options: UnusedOptions) {
    this.#options = options;
  }

  /** Somebody wants to work there. */
  used(id: string): void {
    this.#usedMs.set(id, this.#options.clock.now());
  }

  /** Somebody works there until this has ended. */
  usedBy(id: string, connection: Duplex): void {
    const count = (change: number): void => {
      this.used(id);
      const open = (this.#open.get(id) ?? 0) + change;
      if (open > 0) this.#open.set(id, open);
      else this.#open.delete(id);
    };
    count(1);
    finished(connection, () => count(-1));
  }

  forget(id: string): void {
    this.#usedMs.delete(id);
  }

  mortals(): Mortals {
    return {
      what: 'unused target system',
      expired: (nowMs) => this.#expired(nowMs),
      end: (id) => this.#end(id),
    };
  }

  /** Not those that were made for a job, which end with it. */
  *#expired(nowMs: number): Iterable<string> {
    const { records } = this.#options;
    for (const system of records.all()) {
      const { id, jobId, state } = system;
      const afterMs = this.#afterMs(system);
      if (jobId !== undefined || afterMs === undefined || this.#open.has(id)) continue;
      const usedMs = this.#usedMs.get(id);
      // a time in which nobody could work there is none in which nobody wanted to
      if (!endable.has(state)) this.forget(id);
      else if (usedMs === undefined) this.#usedMs.set(id, nowMs);
      else if (nowMs - usedMs >= afterMs) yield id;
    }
  }

  async #end(id: string): Promise<void> {
    const { idle, records, freeze, end } = this.#options;
    const system = records.get(id);
    const fact = `nobody has used it for ${Math.round((this.#afterMs(system) ?? 0) / 1_000)} s`;
    const action = system.idle?.action ?? idle.action;
    if (await idle.isBusy(id)) this.used(id);
    else if (action === 'freeze' && driverAbilities[system.driver].freeze) {
      this.forget(id);
      await freeze(id, `is being parked on disk: ${fact}`);
    } else await end(id, fact);
  }

  /** Its own time, and not longer than the site's. */
  #afterMs({ idle }: TargetSystem): number | undefined {
    const { afterMs = Infinity } = this.#options.idle;
    const ms = Math.min(afterMs, (idle?.seconds ?? Infinity) * 1_000);
    return ms === Infinity ? undefined : ms;
  }
}
