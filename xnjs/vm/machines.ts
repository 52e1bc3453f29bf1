import pLimit, { type LimitFunction } from 'p-limit';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { Agents } from './agents.js';
import { Comparison } from './comparison.js';
import { watchConsoles } from './console-watch.js';
import { FilesOfMachines } from './files-of-machines.js';
import { DomainWatch } from './domain-watch.js';
import { seatOf, type Seat } from './hosts/host.js';
import type { DomainView } from './hypervisor.js';
import type { LostHosts } from './hosts/lost-hosts.js';
import type { MachineParameters } from './machine-parameters.js';
import { isPassing } from './passing.js';
import { Parking, requireStill } from './parking.js';
import { plugs } from './plug-in.js';
import { Queues } from './queues.js';
import { Keeping } from './snapshots/keeping.js';
import type { SnapshotFiles } from './snapshots/snapshot-files.js';
import { Stops } from './stops.js';
import type { SystemRecords } from './system-records.js';
import type { TargetBinding } from './target-binding.js';
import type { Evidence, TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import type { Claimed } from './tiers/held-spare.js';
import type { SparePool } from './tiers/spare-pool.js';
import type { Templates } from './tiers/templates.js';
import { Starting } from './tiers/starting.js';
import type { UsageMeter } from './usage-meter.js';
import { viewsOf, type Views } from './views.js';
import type { Volumes } from './volumes/volumes.js';
import { writeOut } from './volumes/write-out.js';

export type MachinesParts = {
  readonly records: SystemRecords;
  readonly filesOf: (record: TargetSystem) => SnapshotFiles;
  readonly stopping: AbortSignal;
  readonly meter: UsageMeter | undefined;
  readonly spares: SparePool | undefined;
  readonly templates: Templates | undefined;
  readonly volumes: Pick<Volumes, 'release'> | undefined;
  readonly parameters: Pick<MachineParameters, 'reapply'>;
  readonly lost: Pick<LostHosts, 'settle'>;
};

/** Machines of one host that are looked for at the same time. */
const attachedAtOnce = 64;

/**
 * The virtual machines of the target systems and what is bound to them: makes the world look like the
 * records, and tells these what happens in it.
 */
export class Machines implements AsyncDisposable {
  readonly #options: TargetSystemsOptions;
  readonly #log: Log;
  readonly #records: SystemRecords;
  readonly #stopping: AbortSignal;
  /** By host. */
  readonly #turns = new Map<string, LimitFunction>();
  readonly #agents: Agents;
  readonly #queues: Queues;
  readonly #watch: DomainWatch;
  readonly #stops: Stops;
  readonly #comparison: Comparison;
  readonly #parking: Parking;
  readonly #keeping: Keeping;
  readonly #meter: UsageMeter | undefined;
  readonly #starting: Starting;
  readonly #volumes: MachinesParts['volumes'];
  readonly #parameters: MachinesParts['parameters'];
  readonly #lost: MachinesParts['lost'];
  readonly #machineFiles: FilesOfMachines;
  readonly #unsubscribe: (() => void)[] = [];

  constructor(
    options: TargetSystemsOptions,
    { records, filesOf, stopping, meter, spares, templates, ...parts }: MachinesParts,
  ) {
    this.#options = options;
    this.#meter = meter;
    this.#volumes = parts.volumes;
    this.#parameters = parts.parameters;
    this.#lost = parts.lost;
    this.#log = options.log.child({ part: 'xnjs.vm' });
    this.#records = records;
    this.#stopping = stopping;
    this.#machineFiles = new FilesOfMachines(options);
    this.#agents = new Agents({
      ...{ systems: options, records, log: this.#log, stopping },
      onSilence: (seat) => this.#watch.look(seat),
      onUp: (id) => this.#queues.greet(id),
      onUnbound: (id) => this.#watch.forget(id),
      reapply: (id) => parts.parameters.reapply(id),
      fallBack: (record, why) => this.#starting.fallBack(record, why),
    });
    const { hosts, clock, workspace } = options;
    this.#queues = new Queues({
      ...{ records, clock, log: this.#log, stopping },
      bound: () => [...this.#agents.bound()],
      binding: (id) => this.#agents.find(id),
      intervalMs: options.queuesIntervalMs ?? 300_000,
    });
    this.#stops = new Stops({
      ...{ systems: options, records, agents: this.#agents, files: this.#machineFiles, stopping },
    });
    this.#watch = new DomainWatch({
      ...{ hosts, records, clock, log: this.#log, stopping },
      started: () => this.#agents.bound(),
      onStopped: (id, reason, { host }) => this.#onDomain({ id, state: 'stopped', reason }, host),
      intervalMs: options.watchMs ?? 2_000,
      observer: options.observer,
    });
    const require = (): Promise<void> => this.#require();
    this.#starting = new Starting({
      ...{ ...options, records, require, log: this.#log, files: this.#machineFiles, stopping },
      tiers: { spares, templates },
    });
    const forMachines = {
      ...{ records, hosts, clock, require },
      unbind: (id: string) => this.#agents.unbind(id),
      reconcile: (id: string) => this.reconcile(id),
      ...plugs(options),
    };
    this.#parking = new Parking({ ...forMachines, workspace });
    this.#keeping = new Keeping({
      ...{ ...forMachines, filesOf },
      measureLast: async (record) => await meter?.measureLast(record),
      measureAgain: async (id) => await meter?.goOn(id),
    });
    this.#comparison = this.#openComparison(
      (id) => spares?.has(id) === true || templates?.has(id) === true,
    );
  }

  #openComparison(isKnown: (id: string) => boolean): Comparison {
    return new Comparison({
      ...{ systems: this.#options, records: this.#records, log: this.#log, isKnown },
      ...{ stopping: this.#stopping, require: () => this.#require() },
      started: () => this.#agents.bound(),
      onDomain: (domain, { host }) => this.#onDomain(domain, host),
    });
  }

  /** Domains of ours that belong to nobody, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#comparison.orphans;
  }

  /** All hosts have told what they have, and none has its domain. */
  isNowhere(id: string): boolean {
    return this.#comparison.isNowhere(id);
  }

  /**
   * Writes on its domain what has changed of whose it is, should the database be lost; not on one that another
   * is to take the place of. Never fails.
   */
  async mark(record: TargetSystem): Promise<void> {
    if (!this.#agents.isCurrent(record)) return;
    try {
      await this.#inTurn(record.host, () =>
        this.#options.hosts.of(record).mark(record, this.#epoch),
      );
    } catch (error) {
      this.#log.info({ vmId: record.id, err: errorText(error) }, 'a domain could not be marked');
    }
  }

  get #epoch(): number {
    return this.#options.lease?.epoch ?? 0;
  }

  /** @throws `SITE_UNAVAILABLE` another server acts in our place */
  async #require(): Promise<void> {
    await this.#options.lease?.require();
  }

  /** When each source was last heard of a machine; ms since the epoch. */
  heard(record: TargetSystem): Partial<Record<keyof Views, number>> {
    const hypervisor = this.#watch.heardMs(record);
    return { ...(hypervisor !== undefined && { hypervisor }), ...this.#agents.heard(record.id) };
  }

  /** Listens to the hypervisors, and compares what they have with the records. */
  start(): void {
    const { hosts } = this.#options;
    this.#unsubscribe.push(
      ...hosts.all.map(({ name, hypervisor }) =>
        hypervisor.onDomain((domain) => this.#onDomain(domain, name)),
      ),
      hosts.onAvailable((seat) => this.#meet(seat)),
    );
    for (const seat of [...hosts.seats(), ...hosts.lostSeats()]) this.#meet(seat);
    this.#spawn(this.#queues.watch());
    this.#spawn(this.#watch.watch());
    this.#spawn(this.#comparison.watch());
    this.#spawn(watchConsoles({ ...this.#options, log: this.#log, stopping: this.#stopping }));
    this.#spawn(this.#agents.watchGuests());
  }

  /** A hypervisor that has not answered before does. */
  #meet(seat: Seat): void {
    this.#spawn(this.#comparison.compare(seat));
    const { networks, hosts } = this.#options;
    if (networks && !hosts.isLost(seat)) this.#spawn(networks.check(seat));
  }

  /** Hears of nothing any more; what is bound stays so. */
  stopListening(): void {
    for (const end of this.#unsubscribe.splice(0)) end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stopListening();
    await this.#agents[Symbol.asyncDispose]();
  }

  /** A machine that ran before became a target system's, with the link to its agent. */
  adopt(claimed: Claimed): void {
    const { record } = claimed;
    this.#agents.adopt(claimed);
    this.#spawn(this.mark(record));
    if (this.#meter) this.#spawn(this.#meter.measure(seatOf(record), [record.id]));
  }

  /** Whether its agent answers this server at present. */
  answers(id: string): boolean {
    return this.#agents.answers(id);
  }

  /** What is bound to a machine that has been started. */
  binding(id: string): TargetBinding | undefined {
    return this.#agents.find(id);
  }

  /** Learns what the batch system of a machine tells of its queues. @throws `TSI_UNAVAILABLE` */
  async askQueues(id: string): Promise<void> {
    await this.#queues.ask(id);
  }

  /** @returns ends it */
  onExit(id: string, listener: (bssId: string) => void): () => void {
    return this.#agents.onExit(id, listener);
  }

  /** Makes the world look like the record. Only from inside the record's queue; idempotent. */
  async reconcile(id: string): Promise<void> {
    if (!this.#records.find(id) || this.#stopping.aborted) return;
    await this.#lost.settle(id);
    const found = this.#records.get(id);
    // files on a host that is away can wait, and what is to be said of it cannot
    const swept = this.#keeping.sweep(found);
    await swept.catch(() => undefined);
    await this.#perform(this.#records.get(id));
    await swept;
  }

  async #perform(record: TargetSystem): Promise<void> {
    switch (record.state) {
      case 'INITIALIZING':
        await this.#startUp(record);
        break;
      case 'READY':
      case 'DEGRADED':
      case 'UNREACHABLE':
      case 'PAUSED':
        if (record.undertaking) await this.#keeping.perform(record);
        else if (record.desired === 'suspended') await this.#parking.park(record);
        else await this.#attach(record);
        break;
      case 'SUSPENDED':
        await (record.undertaking ? this.#keeping.perform(record) : this.#parking.leave(record));
        break;
      case 'FAILED':
        await this.#release(record);
        // nobody writes to its disk any more
        if (record.undertaking) await this.#keeping.perform(record);
        break;
      case 'DESTROYING':
        await this.#remove(record);
        break;
      case 'DESTROYED':
        break;
    }
  }

  async #startUp(found: TargetSystem): Promise<void> {
    if (this.#agents.find(found.id)) {
      if (this.#agents.isCurrent(found)) return;
      await this.#agents.unbind(found.id);
    }
    let record = found;
    try {
      const begun = await this.#starting.begin(found);
      if (!begun) return; // it is called for again when that is possible
      record = begun;
      this.#records.show(record);
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.#records.applyNow(record.id, {
        type: 'failed',
        evidence: this.#evidence('server', `could not be started: ${errorText(error)}`),
      });
      await this.#release(this.#records.get(record.id));
      return;
    }
    await this.#parameters.reapply(record.id);
    this.#agents.bind(record);
    if (record.start?.tier === 'warm') this.#spawn(this.mark(record));
    this.#spawn(this.#stops.afterBootTimeout(record));
    // It may have stopped before anybody listened for that.
    const domain = await this.#options.hosts.of(record).find(record.driver, record.id);
    if (domain?.state === 'stopped') this.#onDomain(domain, record.host);
  }

  /** When a server starts all machines of a host are asked for: none waits so long that its call is late. */
  async #inTurn<T>(host: string, work: () => Promise<T>): Promise<T> {
    const turns = this.#turns.get(host) ?? pLimit(attachedAtOnce);
    this.#turns.set(host, turns);
    return await turns(work);
  }

  async #attach(record: TargetSystem): Promise<void> {
    if (this.#agents.find(record.id)) {
      await this.#parameters.reapply(record.id);
      await this.#agents.catchUp(record.id);
      return;
    }
    // also where its host does not answer, which nobody hears an agent through
    this.#agents.expect(record);
    const domain = await this.#inTurn(record.host, () =>
      this.#options.hosts.of(record).find(record.driver, record.id),
    );
    const runs = domain !== undefined && domain.state !== 'stopped';
    if (domain?.isSaved === true || (!runs && record.parkedOn !== undefined)) {
      await this.#parking.bringBack(record);
      return;
    }
    if (runs) {
      if (record.parkedOn !== undefined) requireStill(domain);
      await this.#parking.settle(record);
      await this.#parameters.reapply(record.id);
      this.#agents.bind(record);
      this.#spawn(this.mark(record));
      if (viewsOf(record).agent === undefined) this.#spawn(this.#stops.afterBootTimeout(record));
      return;
    }
    await this.#records.applyNow(record.id, {
      type: 'stopped',
      evidence: this.#evidence('hypervisor', domain?.reason ?? 'the domain no longer exists'),
    });
    await this.reconcile(record.id);
  }

  /** What is left of a failed machine is taken down; its console and its record stay to be read. */
  async #release(record: TargetSystem): Promise<void> {
    await this.#agents.unbind(record.id);
    if (this.#options.hosts.isLost(record)) {
      await this.#meter?.end(record.id, 'measured');
      return;
    }
    await this.#meter?.measureLast(record);
    await this.#require();
    await this.#options.hosts.of(record).remove(record.driver, record.id);
    await this.#options.networks?.release(record);
    await this.#meter?.end(record.id);
  }

  async #remove(record: TargetSystem): Promise<void> {
    if (this.#agents.answers(record.id))
      await writeOut(record, this.#agents.find(record.id), this.#stopping, this.#log);
    await this.#release(record);
    await this.#machineFiles.remove(record);
    await this.#volumes?.release(record.id);
    const evidence = this.#options.hosts.isLost(record)
      ? this.#evidence('user', 'its host was declared lost, and its files here are gone')
      : this.#evidence('hypervisor', 'domain and files are gone');
    await this.#records.applyNow(record.id, { type: 'removed', evidence });
  }

  /**
   * That a domain does not run is news only of one that we know to have run: what is about to be started,
   * or started again after a crash of ours, does not run either. Of a machine its own host tells, and no other.
   */
  #onDomain(domain: DomainView, host: string): void {
    const { id, state, reason } = domain;
    if (!this.#agents.find(id) || this.#records.find(id)?.host !== host) return;
    this.#watch.onEvent(domain);
    if (state === 'stopped') this.#spawn(this.#stops.onStopped(id, reason));
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }

  /** Work that nobody waits for: its failure is told here and ends nothing else. */
  #spawn(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.#log.error({ err: error }, 'news of a machine were lost'));
  }
}
