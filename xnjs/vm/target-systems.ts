import { setMaxListeners } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Log } from '#kernel/log.js';
import { Reaper } from '../reaper.js';
import type { Target, TargetEvent, Targets } from '../target.js';
import { Creation } from './creation.js';
import { enrolleesOf } from './context/enrollees.js';
import { Enrolments } from './context/enrolments.js';
import type { Settled } from './job-settlements.js';
import { withoutSettled } from './settled.js';
import { FilesOfMachines } from './files-of-machines.js';
import { MachineConsoles } from './machine-consoles.js';
import { lifetimes, type LifetimesOptions } from './lifetimes.js';
import { MachineParameters } from './machine-parameters.js';
import { Machines } from './machines.js';
import { ParkingOrders } from './parking-orders.js';
import { followRecords } from './hosts/storage/follow-records.js';
import { HostPlacement } from './hosts/host-placement.js';
import { LostHosts } from './hosts/lost-hosts.js';
import { Planner } from './placement/planner.js';
import { SavedImages, type SavedImagesOptions } from './snapshots/saved-images.js';
import { OwnSnapshotFiles, type SnapshotFiles } from './snapshots/snapshot-files.js';
import { Snapshots } from './snapshots/snapshots.js';
import { isGone } from './state.js';
import { SystemRecords } from './system-records.js';
import { TargetAccess } from './target-access.js';
import type {
  EndAction,
  Evidence,
  Idle,
  MachineSpec,
  ParameterChange,
  Recovery,
  TargetSystem,
} from './target-system.js';
import type { NewTargetSystem, TargetSystemsOptions } from './target-systems-options.js';
import { SparePool } from './tiers/spare-pool.js';
import { Templates } from './tiers/templates.js';
import { Unused } from './unused.js';
import { UsageMeter } from './usage-meter.js';
import type { Usage, UsageFilter, UsageOfOwner } from './usage.js';
import type { Views } from './views.js';
import { Volumes } from './volumes/volumes.js';

/** How often expired target systems are looked for. */
const reaperMs = 1_000;

/**
 * The target systems of this server and their virtual machines. A wish is stored first ({@link SystemRecords});
 * {@link Machines} then makes the world look like the record, which may be repeated at any time.
 */
export class TargetSystems implements Targets, AsyncDisposable {
  /** What users may have, and what becomes of a wish. */
  readonly planner: Planner;
  /** Those that outlive machines; absent: there are none here. */
  readonly volumes: Volumes | undefined;
  readonly consoles: MachineConsoles;
  readonly snapshots: Snapshots;
  readonly parking: ParkingOrders;
  /** Where machines are, and new ones would be. */
  readonly places: HostPlacement;
  /** Those that never come back. */
  readonly lostHosts: LostHosts;
  readonly #options: TargetSystemsOptions;
  readonly #log: Log;
  readonly #records: SystemRecords;
  readonly #machines: Machines;
  readonly #parameters: MachineParameters;
  readonly #creation: Creation;
  readonly #access: TargetAccess;
  readonly #meter: UsageMeter | undefined;
  readonly #spares: SparePool | undefined;
  readonly #templates: Templates | undefined;
  readonly #stopping = new AbortController();
  readonly #reaper: Reaper;
  readonly #unused: Unused | undefined;

  constructor(options: TargetSystemsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm' });
    const stopping = this.#stopping.signal;
    setMaxListeners(Infinity, stopping); // each machine waits for something
    const { usage, hosts, clock, log, idle } = options;
    const records = new SystemRecords({
      ...{ store: options.store, clock, log: this.#log, stopping },
      reconcile: (id) => this.#machines.reconcile(id),
      onAdopt: async (record) => await this.volumes?.restore(record),
      onRemoved: (id) => {
        this.#meter?.forget(id);
        this.#unused?.forget(id);
      },
    });
    this.#records = records;
    const places = this.#openPlaces();
    this.places = places;
    this.volumes = this.#openVolumes();
    this.planner = this.#openPlanner();
    const meter = { hosts, systems: records, clock, log, stopping };
    this.#meter = usage && new UsageMeter({ ...usage, ...meter });
    const enrolments = this.#openEnrolments();
    const parts = { ...options, ...(enrolments && { enrolments }) };
    const isBusy = (host: string): boolean => records.startsOn(host);
    const forPools = { ...parts, isBusy, stopping, places, flavours: this.planner.flavours };
    this.#spares =
      options.spares && new SparePool({ ...forPools, records, spares: options.spares });
    this.#templates = options.warm && new Templates({ ...forPools, warm: options.warm });
    const filesOf = this.#snapshotFiles();
    const require = async (): Promise<void> => await options.lease?.require();
    this.lostHosts = this.#openLostHosts(require);
    this.#parameters = new MachineParameters({ systems: options, records, log: this.#log });
    const pools = { spares: this.#spares, templates: this.#templates, volumes: this.volumes };
    this.#machines = new Machines(parts, {
      ...{ records, filesOf, stopping, meter: this.#meter, lost: this.lostHosts, ...pools },
      parameters: this.#parameters,
    });
    const forNew = { records, places, planner: this.planner, machines: this.#machines };
    this.#creation = new Creation({ systems: options, ...forNew, ...pools, log: this.#log });
    const most = options.limits.snapshots ?? 4;
    this.snapshots = new Snapshots({ ...options, ...forNew, filesOf, most });
    const usedBy = (id: string, connection: Duplex): void => this.#unused?.usedBy(id, connection);
    const machineFiles = { files: new FilesOfMachines(options) };
    this.consoles = new MachineConsoles({ ...options, ...machineFiles, records, usedBy });
    followRecords(hosts, { records: () => [...records.all(), ...this.#nobodys()], require });
    this.#access = new TargetAccess({
      ...{ records, machines: this.#machines, idb: options.idb },
      ...{ used: (id: string) => this.#unused?.used(id), usedBy },
    });
    this.parking = new ParkingOrders({ records, hosts, places, planner: this.planner, clock });
    const ends = {
      freeze: (id: string, fact: string) => this.parking.freeze(id, fact),
      end: (id: string, fact: string) => this.#end(id, fact),
    };
    this.#unused = idle && new Unused({ idle, clock, records, ...ends });
    this.#reaper = this.#createReaper(ends);
  }

  #openPlaces(): HostPlacement {
    const { hosts, networks } = this.#options;
    return new HostPlacement({
      ...{ hosts, networks, records: () => this.#records.all(), nobodys: () => this.#nobodys() },
      ...{ spares: () => this.#spares, memory: () => this.#templates },
    });
  }

  /** Machines that run for whom they may be for. */
  #nobodys(): MachineSpec[] {
    return [...(this.#spares?.machines() ?? []), ...(this.#templates?.machines() ?? [])];
  }

  #openLostHosts(require: () => Promise<void>): LostHosts {
    const nobodys = (): MachineSpec[] => [
      ...(this.#spares?.machines() ?? []),
      ...(this.#templates?.all() ?? []),
    ];
    const { places } = this;
    return new LostHosts({ ...this.#options, records: this.#records, places, nobodys, require });
  }

  /** Where those of a machine are. */
  #snapshotFiles(): (system: TargetSystem) => SnapshotFiles {
    const { hosts, workspace } = this.#options;
    const own = new OwnSnapshotFiles(workspace);
    return (system) => hosts.storageOf(system)?.snapshots ?? own;
  }

  #openEnrolments(): Enrolments | undefined {
    const { enrolment, workspace, clock, log } = this.#options;
    return (
      enrolment &&
      new Enrolments({
        ...{ ...enrolment, clock, log },
        machines: enrolleesOf(this.#records, () => this.#spares),
        forgetToken: (machine) => workspace.tokens.forget(machine),
      })
    );
  }

  #openPlanner(): Planner {
    const { placement, volumes } = this.#options;
    const volumeOffer = volumes && {
      limits: volumes.limits,
      findOf: (ownerDn: string, reference: string) => this.volumes?.findOf(ownerDn, reference),
    };
    return new Planner({ ...this.#options, ...placement, places: this.places, volumeOffer });
  }

  #openVolumes(): Volumes | undefined {
    const { volumes, workspace, lease, clock } = this.#options;
    return (
      volumes &&
      new Volumes({
        store: volumes.store,
        files: workspace.volumes,
        perUser: volumes.limits.perUser,
        largestMiB: volumes.limits.volumeMiB,
        quotasFor: (volume) => this.planner.quotasFor(volume),
        targets: {
          isKnown: (id) => this.#records.find(id) !== undefined,
          isStored: (id) => this.#options.store.has(id),
          isNowhere: (id) => this.#machines.isNowhere(id),
        },
        require: async () => await lease?.require(),
        ...{ clock, log: this.#log },
      })
    );
  }

  #createReaper({ freeze, end }: Pick<LifetimesOptions, 'freeze' | 'end'>): Reaper {
    return new Reaper(
      { clock: this.#options.clock, log: this.#log, intervalMs: reaperMs },
      ...lifetimes({
        ...{ records: this.#records, maxFrozenMs: this.#options.maxFrozenMs },
        ...{ freeze, end, clock: this.#options.clock },
      }),
      ...(this.volumes ? [this.volumes.mortals(), this.volumes.unsettled()] : []),
      ...(this.#unused ? [this.#unused.mortals()] : []),
    );
  }

  /** Re-attaches to what ran before, finishes what was begun, removes what nobody owns. */
  async start(): Promise<void> {
    await this.#records.load();
    await this.volumes?.load([...this.#records.all()]);
    await this.#spares?.load();
    await this.#templates?.load();
    const ids = [...this.#records.all()].map(({ id }) => id);
    await this.#meter?.start(ids);
    for (const id of ids) this.#records.schedule(id);
    this.#machines.start();
    this.#spares?.start();
    this.#templates?.start();
    this.#reaper.start();
  }

  /** The most that one target system may have. */
  get limits(): TargetSystemsOptions['limits'] {
    return this.#options.limits;
  }

  /** The longest that one may be unused. */
  get idleLimitSeconds(): number {
    return (this.#options.idle?.afterMs ?? Infinity) / 1_000;
  }

  /** When each source was last heard of it; ms since the epoch. */
  heard(id: string): Partial<Record<keyof Views, number>> {
    return this.#machines.heard(this.get(id));
  }

  /** Whether its agent answers this server at present, whatever its record says. */
  answers(id: string): boolean {
    return this.#machines.answers(id);
  }

  /** What it has used as far as measured; `undefined`: nothing was yet. */
  usage(id: string): Usage | undefined {
    return this.#meter?.find(id);
  }

  /** What target systems have used, those that are gone too, the newest first. */
  async accounts(
    filter: UsageFilter,
    page: { offset: number; num: number },
  ): Promise<{ usages: Usage[]; total: number }> {
    return (await this.#options.usage?.store.list(filter, page)) ?? { usages: [], total: 0 };
  }

  async usageByOwner(): Promise<UsageOfOwner[]> {
    return (await this.#options.usage?.store.sums()) ?? [];
  }

  /** Domains of ours that belong to no target system, and that nothing is known of. */
  get orphans(): readonly string[] {
    return this.#machines.orphans;
  }

  /** Every record, the newest first. */
  list(filter: { ownerDn?: string } = {}): TargetSystem[] {
    return [...this.#records.all()]
      .filter((record) => filter.ownerDn === undefined || record.ownerDn === filter.ownerDn)
      .sort((a, b) => b.createdMs - a.createdMs);
  }

  /** @throws {@link VmError} `NOT_FOUND` */
  get(id: string): TargetSystem {
    return this.#records.get(id);
  }

  /**
   * Stores the wish and returns; the virtual machine starts behind the caller's back.
   * @throws what {@link Planner.plan} does; `QUOTA_EXCEEDED`
   */
  async create(wish: NewTargetSystem): Promise<TargetSystem> {
    return await this.#creation.create(wish);
  }

  /** Changes what is not the machine's: tags, ACL, life time, what is done at its end. */
  async update(
    id: string,
    change: {
      tags?: readonly string[];
      acl?: readonly string[];
      terminationMs?: number;
      recovery?: Recovery;
      endAction?: EndAction;
      idle?: Idle;
    },
  ): Promise<TargetSystem> {
    return await this.#records.queue(id, async () => {
      const lifetimeFromMs = this.#options.clock.now();
      const next = {
        ...{ ...this.get(id), ...change },
        // the time that it was parked before is not added to it
        ...(change.terminationMs !== undefined && { lifetimeFromMs }),
      };
      await this.#records.save(next);
      void this.#machines.mark(next);
      return next;
    });
  }

  /** Changes the machine itself, while it runs. @returns and @throws what {@link MachineParameters.change} does */
  async changeParameters(id: string, change: ParameterChange): Promise<boolean> {
    return await this.#parameters.change(id, change);
  }

  /** What was to be done for its jobs has been: its machine may go on. */
  async settled(id: string, done: Settled): Promise<void> {
    await this.#records.queue(id, async () => {
      const record = this.#records.find(id);
      if (record) await this.#records.save(withoutSettled(record, done));
    });
    this.#records.schedule(id);
  }

  /** Machines as images. */
  savedImages(parts: Pick<SavedImagesOptions, 'images' | 'publisher'>): SavedImages {
    const { clock } = this.#options;
    const filesOf = this.#snapshotFiles();
    return new SavedImages({ ...parts, systems: this, filesOf, clock, log: this.#log });
  }

  /** Accepts the deletion; the record is gone when domain and files are. */
  async destroy(id: string, fact = 'deleted by its owner'): Promise<void> {
    this.get(id);
    await this.#records.apply(id, { type: 'destroy', evidence: this.#evidence('user', fact) });
  }

  /** Of a machine with a network: what the hypervisor gave it. */
  async addresses(id: string): Promise<readonly string[]> {
    const system = this.get(id);
    const { card, driver, image } = system;
    if (isGone(system)) return [];
    if (card?.address !== undefined) return [card.address];
    const hypervisor = this.#options.hosts.of(system);
    if (card?.kind === 'bridge') return await hypervisor.addresses(driver, id, 'neighbours');
    if (image.metadata.tsi.transport === 'tcp') return await hypervisor.addresses(driver, id);
    return [];
  }

  /** Those on disk, or on the way; and those whose jobs' life times are still to be put off for that. */
  parked(): readonly string[] {
    const isParked = ({ desired, putOff }: TargetSystem): boolean =>
      desired === 'suspended' || putOff !== undefined;
    return [...this.#records.all()].filter(isParked).map(({ id }) => id);
  }

  find(targetId: string): Target | undefined {
    return this.#access.find(targetId);
  }

  subscribe(listener: (event: TargetEvent) => void): () => void {
    return this.#records.subscribe(listener);
  }

  /** Lets go of every machine; they run on, and `start` finds them again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.#machines.stopListening();
    await this.#reaper[Symbol.asyncDispose]();
    await this.#spares?.[Symbol.asyncDispose]();
    await this.#templates?.[Symbol.asyncDispose]();
    await this.#records.idle();
    await this.#machines[Symbol.asyncDispose]();
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.clock.now() };
  }

  async #end(id: string, fact: string): Promise<void> {
    await this.#records.apply(id, { type: 'destroy', evidence: this.#evidence('server', fact) });
  }
}
