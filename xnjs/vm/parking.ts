import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Seat } from './hosts/host.js';
import type { Hypervisor } from './hypervisor.js';
import { isPassing } from './passing.js';
import type { VmEvent } from './state.js';
import type { Evidence, TargetSystem } from './target-system.js';

export type ParkingOptions = {
  readonly hosts: { of(seat: Pick<Seat, 'host'>): Pick<Hypervisor, 'find' | 'save' | 'restore'> };
  readonly records: { applyNow(id: string, event: VmEvent): Promise<void> };
  /** Makes what it is plugged into: the host may have been started anew meanwhile. */
  readonly plugIn: (record: TargetSystem) => Promise<void>;
  /** Lets go of its agent. */
  readonly unbind: (id: string) => Promise<void>;
  /** What is next is done at once. */
  readonly reconcile: (id: string) => Promise<void>;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
  readonly clock: Clock;
};

/**
 * Machines on their way to disk and back. Each step may be repeated at any time, and only from inside the
 * record's queue: how far it came is for the hypervisor to say.
 */
export class Parking {
  readonly #options: ParkingOptions;

  constructor(options: ParkingOptions) {
    this.#options = options;
  }

  /** Its memory goes to disk. */
  async park(record: TargetSystem): Promise<void> {
    const { id, driver } = record;
    const { hosts, unbind, require } = this.#options;
    await unbind(id);
    await require();
    try {
      if (await hosts.of(record).save(driver, id)) await this.#tell(id, 'frozen', 'parked on disk');
      else await this.#tell(id, 'stopped', 'the machine stopped before it was parked');
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#tell(id, 'thaw', `could not be parked: ${errorText(error)}`, 'server');
    }
    await this.#options.reconcile(id);
  }

  async bringBack(record: TargetSystem): Promise<void> {
    const { id, driver } = record;
    const { hosts, plugIn, require, reconcile } = this.#options;
    await require();
    try {
      await plugIn(record);
      await hosts.of(record).restore(driver, id);
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#tell(id, 'frozen', `could not be brought back: ${errorText(error)}`, 'server');
    }
    await reconcile(id);
  }

  /** Leaves it on disk, unless somebody else has started it. */
  async leave(record: TargetSystem): Promise<void> {
    const { id, driver } = record;
    const { hosts, unbind, reconcile } = this.#options;
    await unbind(id);
    const domain = await hosts.of(record).find(driver, id);
    if (!domain || domain.state === 'stopped') return;
    await this.#tell(id, 'thaw', 'the machine was started by somebody else');
    await reconcile(id);
  }

  async #tell(
    id: string,
    type: 'frozen' | 'stopped' | 'thaw',
    fact: string,
    source: Evidence['source'] = 'hypervisor',
  ): Promise<void> {
    const evidence = { source, fact, atMs: this.#options.clock.now() };
    await this.#options.records.applyNow(id, { type, evidence });
  }
}
