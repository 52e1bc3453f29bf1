import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import { driverAbilities } from './hosts/driver-abilities.js';
import type { HostPlacement } from './hosts/host-placement.js';
import type { Hosts } from './hosts/hosts.js';
import { rehost } from './hosts/rehosting.js';
import type { Planner } from './placement/planner.js';
import type { SystemRecords } from './system-records.js';
import type { Evidence, TargetSystem } from './target-system.js';
import { isAlive } from './views.js';

export type ParkingOrdersOptions = {
  readonly records: Pick<SystemRecords, 'get' | 'find' | 'all' | 'apply' | 'queue' | 'save'>;
  readonly hosts: Hosts;
  readonly places: HostPlacement;
  readonly planner: Pick<Planner, 'quotasFor'>;
  readonly clock: Clock;
};

/** What became of each of many: its id, and what is done or why it cannot be. */
export type Outcomes = Readonly<Record<string, string>>;

/** Orders to park machines on disk, and to bring them back (ADR 032). */
export class ParkingOrders {
  readonly #options: ParkingOrdersOptions;

  constructor(options: ParkingOrdersOptions) {
    this.#options = options;
  }

  /**
   * Has it parked on disk, with all that runs there, until `thaw`.
   * @throws `VM_ILLEGAL_EVENT` in such a state it cannot be; `CONFLICT` its machine cannot be, and why
   */
  async freeze(id: string, fact = 'is being parked on disk, by order'): Promise<void> {
    await this.#freeze(id, fact, false);
  }

  /**
   * Brings back what was parked; its jobs go on. One that runs is left as it is.
   * @throws `QUOTA_EXCEEDED` its cores and memory are not free; `CONFLICT` it is parked for maintenance, or its life
   * time is over; `HYPERVISOR_UNAVAILABLE` its host is away, and no other can take it
   */
  async thaw(id: string): Promise<void> {
    const system = this.#options.records.get(id);
    if (system.isMaintained)
      throw new GridError('CONFLICT', 'it is parked while its host is maintained', { vmId: id });
    if (system.desired === 'suspended' && remainingMs(system) <= 0)
      throw new GridError(
        'CONFLICT',
        'its life time is over: give it a later terminationTime first',
        { vmId: id },
      );
    await this.#thaw(system);
  }

  /**
   * Parks all that can be, while their host is maintained; only {@link thawAll} brings them back.
   * @param host absent: those of all hosts
   * @throws `NOT_FOUND` there is no such host
   */
  async freezeAll(host?: string): Promise<Outcomes> {
    if (host !== undefined) this.#options.hosts.require(host);
    const fact = 'is being parked on disk: its host is to be maintained';
    return await this.#forAll(
      (system) =>
        isAlive(system) && system.desired === undefined && (host ?? system.host) === system.host,
      async ({ id }) => {
        await this.#freeze(id, fact, true);
        return 'is being parked';
      },
    );
  }

  /** @throws `NOT_FOUND` there is no such host */
  async thawAll(host?: string): Promise<Outcomes> {
    if (host !== undefined) this.#options.hosts.require(host);
    return await this.#forAll(
      (system) => system.isMaintained === true && (host ?? system.host) === system.host,
      async (system) => {
        await this.#thaw(system);
        return 'is being brought back';
      },
    );
  }

  async #forAll(
    concerns: (system: TargetSystem) => boolean,
    work: (system: TargetSystem) => Promise<string>,
  ): Promise<Outcomes> {
    const outcomes: Record<string, string> = {};
    for (const system of [...this.#options.records.all()].filter(concerns))
      outcomes[system.id] = await work(system).catch(errorText);
    return outcomes;
  }

  async #freeze(id: string, fact: string, isMaintained: boolean): Promise<void> {
    const { records } = this.#options;
    const { driver, views } = records.get(id);
    const { freeze: canFreeze, description } = driverAbilities[driver];
    if (!canFreeze)
      throw new GridError('CONFLICT', `${description} cannot be parked on disk`, { vmId: id });
    const says = views?.hypervisor?.says;
    if (says === 'hung' || says === 'silent')
      throw new GridError('CONFLICT', `it cannot be parked: ${views?.hypervisor?.fact}`, {
        vmId: id,
      });
    const why = isMaintained && { isMaintained };
    await records.apply(id, { type: 'freeze', evidence: this.#evidence(fact), ...why });
  }

  async #thaw(system: TargetSystem): Promise<void> {
    const { records, planner, hosts, places } = this.#options;
    await records.queue(system.id, async () => {
      const record = records.find(system.id);
      if (record?.state === 'SUSPENDED' && record.parkedOn !== undefined)
        await rehost(record, { hosts, places, save: (next) => records.save(next) });
    });
    const evidence = this.#evidence('is being brought back from disk');
    await records.apply(system.id, { type: 'thaw', evidence }, planner.quotasFor(system));
  }

  #evidence(fact: string): Evidence {
    return { source: 'user', fact, atMs: this.#options.clock.now() };
  }
}

/** What a parked one has left of its life. */
function remainingMs({
  terminationMs = Infinity,
  frozenSinceMs = 0,
  lifetimeFromMs = 0,
}: TargetSystem): number {
  return terminationMs - Math.max(frozenSinceMs, lifetimeFromMs);
}
