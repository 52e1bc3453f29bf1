import { setImmediate as turn } from 'node:timers/promises';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { isSeatOf, seatKey, type Host, type Seat } from './hosts/host.js';
import { isOutlived } from './hosts/lost-hosts.js';
import type { DomainView, OwnDomain } from './hypervisor.js';
import { FilesOfMachines } from './files-of-machines.js';
import { Orphans } from './orphans.js';
import { readParkedMark } from './parked-memory.js';
import type { SystemRecords } from './system-records.js';
import type { TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

export type ComparisonOptions = {
  readonly systems: TargetSystemsOptions;
  readonly records: SystemRecords;
  readonly log: Log;
  readonly stopping: AbortSignal;
  /** Those that have been started. */
  readonly started: () => Iterable<string>;
  /** Whether the domain is another's of this server than a target system's. */
  readonly isKnown: (id: string) => boolean;
  /** A host has told. */
  readonly onDomain: (domain: DomainView, seat: Seat) => void;
  /** @throws when this server may not act any more */
  readonly require: () => Promise<void>;
};

/** Records that are looked at before anything else has its turn. */
const reconciledAtOnce = 40;

/** What do hypervisors have, and what do the records say they should? */
export class Comparison {
  readonly #options: ComparisonOptions;
  readonly #orphans: Orphans;
  /** Hosts whose machines are being made to look like their records. */
  readonly #busy = new Set<string>();
  /** By host and driver: what was there the last time that it was compared. */
  readonly #present = new Map<string, ReadonlySet<string>>();
  #isSweeping = false;

  constructor(options: ComparisonOptions) {
    const { systems, records, isKnown, require } = options;
    this.#options = options;
    this.#orphans = new Orphans({
      ...systems,
      markOf: async (id) => await readParkedMark(systems.workspace.parkedMemory({ id })),
      files: new FilesOfMachines(systems),
      isKnown: (id) => records.find(id) !== undefined || isKnown(id),
      isAt: (id, seat) => this.#isAt(id, seat),
      isOutlived: (domain, seat) => this.#isOutlived(domain, seat),
      mayAdopt: (seat) => !systems.hosts.isLost(seat),
      adopt: (record, where) => records.adopt(record, where),
      graceMs: systems.orphanGraceMs ?? 60_000,
      require,
    });
  }

  /** Domains of ours that belong to nobody, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#orphans.left;
  }

  /** All hosts have told what they have, and none has its domain. */
  isNowhere(id: string): boolean {
    return this.#everywhere()?.has(id) === false;
  }

  /** On a host that was declared lost nothing is any more. */
  #isAt(id: string, seat: Seat): boolean {
    const { records, isKnown, systems } = this.#options;
    const record = records.find(id);
    if (!record) return isKnown(id);
    return isSeatOf(seat, record) && !systems.hosts.isLost(seat);
  }

  #isOutlived({ id, mark }: Pick<OwnDomain, 'id' | 'mark'>, { host }: Seat): boolean {
    const { records, systems } = this.#options;
    const record = records.find(id);
    const there = { host, generation: mark?.generation, isLost: systems.hosts.isLost({ host }) };
    return record !== undefined && isOutlived(record, there);
  }

  /** Now and then, until the server stops. */
  async watch(): Promise<void> {
    const { records, stopping } = this.#options;
    const { clock, compareMs = 30_000, hosts, observer } = this.#options.systems;
    for (;;) {
      await clock.sleep(compareMs, stopping).catch(() => undefined);
      if (stopping.aborted) return;
      const beganMs = performance.now();
      const seats = [...hosts.seats(), ...hosts.lostSeats()];
      // when one is taken back nothing is known of it
      for (const { name: host, drivers } of hosts.all)
        if (hosts.isLost({ host }))
          for (const driver of drivers) this.#present.delete(seatKey({ host, driver }));
      await Promise.all(seats.map((seat) => this.#compare(seat)));
      // not waited for: a pool that hangs holds up no news of machines
      void this.#sweep();
      const all = [...records.all()];
      // not waited for: a host that hangs holds up its own machines only
      for (const host of new Set(all.map((record) => record.host))) {
        if (this.#busy.has(host)) continue;
        this.#busy.add(host);
        const those = all.filter((record) => record.host === host);
        void this.#reconcile(those).finally(() => {
          this.#busy.delete(host);
          observer?.reconciled(performance.now() - beganMs);
        });
      }
    }
  }

  async #reconcile(those: readonly TargetSystem[]): Promise<void> {
    for (const [at, { id }] of those.entries()) {
      if (this.#options.stopping.aborted) return;
      await this.#options.records.reconcile(id);
      // most have nothing to do, and wait for nothing
      if (at % reconciledAtOnce === reconciledAtOnce - 1) await turn();
    }
  }

  /** After start-up, and after a lost connection. Never fails. */
  async compare(seat: Seat): Promise<void> {
    await this.#compare(seat);
    await this.#sweep();
  }

  async #compare(seat: Seat): Promise<void> {
    const { records, started, onDomain, log, systems } = this.#options;
    try {
      if (systems.hosts.isLost(seat)) {
        await this.#orphans.judge(seat, await systems.hosts.of(seat).list(seat.driver));
        return;
      }
      // Those only: what is started while the list is on its way may be missing from it.
      const bound = [...started()].filter((id) => isSeatOf(seat, records.get(id)));
      const isAt = (id: string): boolean => this.#isAt(id, seat);
      const domains = await systems.hosts.of(seat).list(seat.driver, isAt);
      // whatever other hosts do; not waited for: a pool that hangs holds up no news of machines
      void systems.hosts.storageOf(seat)?.recheck();
      void systems.networks?.recheck(seat);
      // how those are that run is told by looks, which know whether they hang
      for (const domain of domains)
        if (domain.state === 'stopped' && records.find(domain.id)) onDomain(domain, seat);
      // each step looks at all machines: others have their turn between them
      await turn();
      await this.#orphans.judge(seat, domains);
      await turn();
      const known = new Set(domains.map(({ id }) => id));
      this.#present.set(seatKey(seat), known);
      await turn();
      for (const id of bound)
        if (!known.has(id))
          onDomain({ id, state: 'stopped', reason: 'the domain no longer exists' }, seat);
    } catch (error) {
      log.warn({ ...seat, err: error }, 'the hypervisor could not be compared with our records');
    }
  }

  /** Those that were not declared lost. */
  #hosts(): readonly Host[] {
    const { hosts } = this.#options.systems;
    return hosts.all.filter(({ name: host }) => !hosts.isLost({ host }));
  }

  /** Ids of all domains of ours; `undefined`: a host is silent. */
  #everywhere(): ReadonlySet<string> | undefined {
    const { hosts } = this.#options.systems;
    const seats = this.#hosts().flatMap(({ name, drivers }) =>
      drivers.map((driver) => ({ host: name, driver })),
    );
    const present = new Set<string>();
    for (const seat of seats) {
      const there = this.#present.get(seatKey(seat));
      if (!there || !hosts.isUp(seat)) return undefined;
      for (const id of there) present.add(id);
    }
    return present;
  }

  /**
   * Files may belong to a machine of any host: nothing goes while one of them is silent. One sweep at a time, of all
   * hosts. Never fails.
   */
  async #sweep(): Promise<void> {
    const present = this.#everywhere();
    if (!present || this.#isSweeping) return;
    this.#isSweeping = true;
    try {
      await this.#sweepAllBut(present);
    } catch (error) {
      this.#options.log.warn({ err: errorText(error) }, 'what is left of machines was not swept');
    } finally {
      this.#isSweeping = false;
    }
  }

  async #sweepAllBut(present: ReadonlySet<string>): Promise<void> {
    const { records, isKnown, require, systems, log } = this.#options;
    const { networks, store, hosts } = systems;
    await this.#orphans.sweep(present);
    const isOurs = (id: string): boolean => records.find(id) !== undefined || isKnown(id);
    const isGone = async (id: string): Promise<boolean> =>
      !isOurs(id) && !present.has(id) && (await store.wasRemoved(id));
    await networks?.sweep(
      async (id) => {
        if (!(await isGone(id))) return false;
        await require();
        return true;
      },
      (host) => hosts.isLost({ host }),
    );
    const areKnown = [...present].every(isOurs);
    await Promise.all(
      this.#hosts().map(async ({ name: host, storage }) => {
        await storage?.sweep(isGone, areKnown).catch((error: unknown) => {
          log.warn({ host, err: errorText(error) }, 'the volumes of a host could not be swept');
        });
      }),
    );
  }
}
