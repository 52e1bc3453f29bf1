import { imageFormats, type ImageRecord, type NetworkKind } from '#imagerepo/contract.js';
import type { MachineNetworks } from '../machine-networks.js';
import { amountsOf, type Amounts } from '../placement/quota.js';
import type { Driver, TargetSystem } from '../target-system.js';
import { isAlive } from '../views.js';
import { abilitiesOf, type HostAbilities } from './host-abilities.js';
import type { StorageStatus } from './storage/host-storage.js';
import { whyUnable, type DriverCapabilities } from './capabilities.js';
import { chooseHost, loadWith, type Demand, type HostView, type Spot } from './choose-host.js';
import { isSeatOf, localHost, type Host, type Load, type Room, type Seat } from './host.js';
import { lossText, type Hosts, type Loss } from './hosts.js';

/** A machine that is to be: what decides where. */
export type Placed = Pick<TargetSystem, 'parameters' | 'volumes'> & {
  readonly image: Pick<ImageRecord, 'id' | 'metadata'> & Partial<Pick<ImageRecord, 'parts'>>;
  readonly labels?: HostLabels | undefined;
};

/** What the host must have, and where that stands in the request. */
export type HostLabels = { readonly labels: readonly string[]; readonly field: string };

/** Where a machine is going to be. */
export type Held = {
  readonly host: string;
  readonly placement: string;
  /** That it has for itself. */
  readonly cores?: readonly number[];
  /** It counts by its record from now on, or will never. */
  readonly release: () => void;
};

type Taken = {
  readonly host: string;
  readonly imageId: string;
  readonly amounts: Amounts;
  readonly cores?: readonly number[] | undefined;
};

/** For operators. */
export type HostStatus = {
  readonly name: string;
  /** Configured, and whether it answers. */
  readonly drivers: readonly { readonly name: Driver; readonly isUp: boolean }[];
  readonly labels: readonly string[];
  readonly isDrained: boolean;
  /** Absent: it was not declared lost. */
  readonly loss?: Loss;
  /** Absent: not known yet. */
  readonly room?: Room;
  readonly used: Load;
  readonly machines: number;
  readonly spares: SpareCounts;
  /** Absent: it shares the server's files. */
  readonly storage?: StorageStatus;
  readonly abilities: HostAbilities;
  /** What machines each driver can run; those are missing that have not told yet. */
  readonly capabilities: Readonly<Partial<Record<Driver, DriverCapabilities>>>;
  /** Kinds of networks that the site has, and this host has not: why. */
  readonly networkProblems: Readonly<Partial<Record<NetworkKind, string>>>;
};

export type HostPlacementOptions = {
  readonly hosts: Hosts;
  readonly records: () => Iterable<TargetSystem>;
  /** Absent: machines have none. */
  readonly networks?: Pick<MachineNetworks, 'offeredAt' | 'problemsAt' | 'whyNotAt'> | undefined;
  /** Machines that run and are nobody's; absent: there are none. */
  readonly spares?: () => SparesOfHosts | undefined;
  /** Saved memory; absent: there is none. */
  readonly memory?: () => MemoryOfHosts | undefined;
  /** Machines that are there, whoever they will be for: they take what users' machines have left. */
  readonly nobodys?: () => Iterable<Pick<TargetSystem, 'host' | 'parameters'>>;
};

export type SparesOfHosts = {
  /** Whether there is one on that host that such a machine can become. */
  canServe(host: string, machine: Placed): boolean;
  countsOn(host: string): SpareCounts;
};
export type MemoryOfHosts = {
  /** Whether such a machine can be restored on that host from what another had in its memory. */
  canServe(host: string, machine: Placed): boolean;
};
/** `ready`: that a user could have at once. */
export type SpareCounts = { readonly ready: number; readonly all: number };

/** What a host is for one more machine of nobody's. */
export type Vacancy = {
  /** How full it is with it: 1 is full. */
  readonly load: number;
  /** Nothing has to be copied there first. */
  readonly hasImage: boolean;
};

/**
 * Finds hosts for new machines, by what the records say that is there: from its choice until its record is
 * stored a machine is held here, so that two that are asked for at once do not get the same room.
 */
export class HostPlacement {
  readonly #options: HostPlacementOptions;
  readonly #held = new Map<string, Taken>();

  constructor(options: HostPlacementOptions) {
    this.#options = options;
  }

  /** As things are. @throws what {@link chooseHost} does */
  choose(wish: Placed): Spot {
    return chooseHost(this.#views(wish), demandOf(wish));
  }

  /** As {@link choose}; with the driver that was planned; it counts from now on. @param among those hosts only */
  hold(
    id: string,
    plan: Placed & Pick<TargetSystem, 'driver'>,
    labels: HostLabels | undefined,
    among?: readonly string[],
  ): Held {
    const demand = { ...demandOf({ ...plan, labels }), drivers: [plan.driver] };
    // one that there is already becomes no spare
    const views = among
      ? this.#views(plan)
          .filter(({ name }) => among.includes(name))
          .map((view) => ({ ...view, hasSpare: false, hasMemory: false }))
      : this.#views(plan);
    const { host, why, cores } = chooseHost(views, demand);
    this.#held.set(id, { host, imageId: plan.image.id, amounts: whenRunning(plan), cores });
    const own = cores && { cores };
    return { host, placement: why, ...own, release: () => void this.#held.delete(id) };
  }

  /** All hosts as they are. */
  list(): HostStatus[] {
    const { hosts, records, networks } = this.#options;
    const all = [...records()];
    return hosts.all.map((host) => {
      const { name, hypervisor, labels, drivers } = host;
      const up = hypervisor.available();
      const room = hosts.roomOf(host);
      const loss = hosts.lossOf({ host: name });
      return {
        ...(loss && { loss }),
        ...{ name, labels, isDrained: hosts.isDrained(host), used: this.used(name) },
        drivers: drivers.map((driver) => ({ name: driver, isUp: up.includes(driver) })),
        machines: all.filter((record) => record.host === name).length,
        spares: this.#options.spares?.()?.countsOn(name) ?? { ready: 0, all: 0 },
        ...(room && { room }),
        ...(host.storage && { storage: host.storage.status }),
        abilities: abilitiesOf(host, networks?.offeredAt(name)),
        capabilities: Object.fromEntries(
          drivers.flatMap((driver) => {
            const found = hosts.capabilitiesOf({ host: name, driver });
            return found ? [[driver, found]] : [];
          }),
        ),
        networkProblems: networks?.problemsAt(name) ?? {},
      };
    });
  }

  /** Stored, then done. @throws `NOT_FOUND` there is no such host */
  async drain(name: string, isDrained: boolean): Promise<void> {
    await this.#options.hosts.drain(name, isDrained);
  }

  /** Some host has cores that a machine can have for itself. */
  get offersCores(): boolean {
    return this.#options.hosts.all.some(({ pinning }) => pinning !== undefined);
  }

  hasLabels({ host }: Pick<TargetSystem, 'host'>, labels: readonly string[]): boolean {
    const found = this.#options.hosts.all.find(({ name }) => name === host);
    return labels.every((label) => found?.labels.includes(label));
  }

  /** What the machines of a host take together. */
  used(host: string): Load {
    return sumOf([...this.#taken()].filter((each) => each.host === host));
  }

  /** A connection is given up only after a while: what is told of its machines is quicker. */
  isSilent(seat: Seat): boolean {
    for (const record of this.#options.records())
      if (record.views?.hypervisor?.says === 'silent' && isSeatOf(seat, record) && isAlive(record))
        return true;
    return false;
  }

  /** @returns `undefined`: users' machines of that kind cannot be there at present, and none for them either */
  vacancy(name: string, machine: Placed & Pick<TargetSystem, 'driver'>): Vacancy | undefined {
    const view = this.#views(machine).find((each) => each.name === name);
    const load = view && loadWith(view, { ...demandOf(machine), drivers: [machine.driver] });
    if (!view || load === undefined) return undefined;
    // where files are shared they are there
    return { load, hasImage: view.hasImage || view.hasOwnStorage !== true };
  }

  /** What a host has beside what users' machines were promised, and nobody's have; 0: nobody knows. */
  freeMiB(name: string): number {
    const { hosts, nobodys } = this.#options;
    const host = hosts.all.find((each) => each.name === name);
    const { memoryMiB = 0 } = (host && hosts.roomOf(host)) ?? {};
    let free = memoryMiB - this.used(name).memoryMiB;
    for (const machine of nobodys?.() ?? [])
      if (machine.host === name) free -= machine.parameters.memoryMiB;
    return Math.max(0, free);
  }

  #views(machine: Placed): HostView[] {
    const taken = [...this.#taken()];
    return this.#options.hosts.all.map((host) => this.#view(host, taken, machine));
  }

  #view(host: Host, taken: readonly Taken[], machine: Placed): HostView {
    const { hosts, networks, spares, memory } = this.#options;
    const { image } = machine;
    const { name, labels, storage } = host;
    const loss = hosts.lossOf({ host: name });
    const problem = storage?.status.problem;
    const there = taken.filter((each) => each.host === name);
    const own = host.pinning?.own ?? [];
    const isSharing = ({ cores }: Taken): boolean => !cores?.every((core) => own.includes(core));
    return {
      ...{ name, labels },
      ...(loss && { loss: `it was ${lossText(loss)}` }),
      drivers: hosts
        .driversUp({ host: name })
        .filter((driver) => !this.isSilent({ host: name, driver })),
      isDrained: hosts.isDrained(host),
      isLocal: name === localHost,
      hasOwnStorage: storage !== undefined,
      room: hosts.roomOf(host),
      used: { ...sumOf(there), cores: sumOf(there.filter(isSharing)).cores },
      ownCores: this.#ownCores(host),
      hasImage: storage
        ? storage.hasImage(image)
        : there.some(({ imageId }) => imageId === image.id),
      ...(networks && { whyNoNetwork: (kind) => networks.whyNotAt(name, kind) }),
      whyUnable: (driver, needs) => {
        const capabilities = hosts.capabilitiesOf({ host: name, driver });
        return capabilities && whyUnable(driver, capabilities, needs);
      },
      hasSpare: spares?.()?.canServe(name, machine) === true,
      hasMemory: memory?.()?.canServe(name, machine) === true,
      ...(problem !== undefined && { problem: `its storage pool: ${problem}` }),
    };
  }

  /** One that failed has them still: it may be put back, or started again. */
  #ownCores({ name, pinning }: Host): HostView['ownCores'] {
    const own = pinning?.own ?? [];
    const taken = new Set<number>();
    for (const each of [...this.#options.records(), ...this.#held.values()])
      if (each.host === name) each.cores?.forEach((core) => taken.add(core));
    return { all: own.length, free: own.filter((core) => !taken.has(core)) };
  }

  /** Machines that failed are gone; those on disk, and of hosts that are silent, come back to where they were. */
  *#taken(): Iterable<Taken> {
    for (const record of this.#options.records())
      if (record.state !== 'FAILED' && !this.#held.has(record.id)) yield takenBy(record);
    yield* this.#held.values();
  }
}

function takenBy(record: TargetSystem): Taken {
  const { host, image, cores } = record;
  return { host, imageId: image.id, amounts: whenRunning(record), cores };
}

function sumOf(taken: readonly Taken[]): Load {
  const sum = { cores: 0, memoryMiB: 0, diskMiB: 0 };
  for (const { amounts } of taken) {
    sum.cores += amounts.cpus;
    sum.memoryMiB += amounts.memoryMiB;
    sum.diskMiB += amounts.diskMiB;
  }
  return sum;
}

/** On a quota what is parked counts as disk only; its host has to take it back whole. */
function whenRunning({
  parameters,
  snapshots,
  volumes,
}: Pick<TargetSystem, 'parameters'> &
  Partial<Pick<TargetSystem, 'snapshots' | 'volumes'>>): Amounts {
  return amountsOf({ parameters, ...(snapshots && { snapshots }), ...(volumes && { volumes }) });
}

function demandOf({ image: { metadata }, labels, ...machine }: Placed): Demand {
  const { cpus, memoryMiB, diskMiB } = whenRunning(machine);
  return {
    ...{ cpus, memoryMiB, diskMiB, isPinned: machine.parameters.pinned === true },
    drivers: imageFormats[metadata.format].drivers,
    ...{ architecture: metadata.os.architecture, display: metadata.display === true },
    network: machine.parameters.network,
    ...{ labels: labels?.labels ?? [], labelsField: labels?.field ?? 'hostLabels' },
    ...(machine.volumes && {
      sharedOnly: "its volumes are files of the server's directory, which that host does not share",
    }),
    ...(metadata.tsi.transport === 'tcp' && {
      localOnly: "its image's TSI is reached by a network that only the server's own host has",
    }),
  };
}
