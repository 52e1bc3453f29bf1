import type { NetworkKind } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import type { Driver, StartTier } from '../target-system.js';
import type { MachineNeeds } from './capabilities.js';
import type { Load, Room } from './host.js';

/** What a machine needs of its host. */
export type Demand = MachineNeeds & {
  readonly memoryMiB: number;
  readonly diskMiB: number;
  /** Of its image's format. */
  readonly drivers: readonly Driver[];
  /** Its cores are to be its own. */
  readonly isPinned: boolean;
  readonly labels: readonly string[];
  /** Where the labels stand in the request: for messages. */
  readonly labelsField: string;
  /** Absent: it has none. */
  readonly network?: NetworkKind | undefined;
  /** Why it cannot be on another host than the server's; absent: it can. */
  readonly localOnly?: string;
  /** Why it cannot be on a host that does not share the server's directory; absent: it can. */
  readonly sharedOnly?: string;
};

/** A host as it is at the moment. */
export type HostView = {
  readonly name: string;
  /** Its drivers that answer. */
  readonly drivers: readonly Driver[];
  readonly labels: readonly string[];
  readonly isDrained: boolean;
  readonly isLocal: boolean;
  /** Files of its machines are there, and not in the server's directory. */
  readonly hasOwnStorage?: boolean;
  /** `undefined`: not known yet. */
  readonly room: Room | undefined;
  /** What the machines there hold, whatever their state; `cores`: those of machines that share. */
  readonly used: Load;
  /** Cores that machines may have for themselves there, which no others run on, and those of them that none has. */
  readonly ownCores: { readonly all: number; readonly free: readonly number[] };
  /** A machine made there need not wait for its image, or finds it in the host's memory. */
  readonly hasImage: boolean;
  /** Why machines there cannot have a network of this kind; absent: they can have any. */
  readonly whyNoNetwork?: (kind: NetworkKind) => string | undefined;
  /** Why a driver of it cannot run such a machine; absent: nobody knows of any reason. */
  readonly whyUnable?: (driver: Driver, needs: MachineNeeds) => string | undefined;
  /** A spare machine runs there that the machine can become. */
  readonly hasSpare?: boolean;
  /** The machine can be restored there from what another had in its memory. */
  readonly hasMemory?: boolean;
  /** Why no machine can be made there at present. */
  readonly problem?: string;
  /** That it was declared lost, by whom and when; its drivers are none then. */
  readonly loss?: string;
};

export type Spot = {
  readonly host: string;
  readonly driver: Driver;
  readonly why: string;
  /** By which it would be started there now. */
  readonly tier: StartTier;
  /** That it has for itself. */
  readonly cores?: readonly number[];
};

/** The quicker first. */
const preference: readonly Driver[] = ['kvm', 'qemu', 'lxc'];

type Fit = { readonly view: HostView; readonly driver: Driver; readonly load: number };

/**
 * The host for a new machine: of those where it fits the one with the quicker driver, then one that has a spare,
 * then one that has saved memory, then one that has its image at hand, then that with most room left.
 * @throws `BAD_REQUEST` no host has the labels, or can run it at all; `HYPERVISOR_UNAVAILABLE` none of them answers;
 * `LIMIT_REACHED` what each of them lacks
 */
export function chooseHost(views: readonly HostView[], demand: Demand): Spot {
  const labelled = views.filter(({ labels }) =>
    demand.labels.every((each) => labels.includes(each)),
  );
  if (labelled.length === 0) throw noSuchLabels(views, demand);
  const fits: Fit[] = [];
  const reasons: string[] = [];
  let [answering, unable] = [0, 0];
  for (const view of labelled) {
    const { candidates, driver, inability } = driverOf(view, demand);
    if (candidates > 0) answering += 1;
    if (inability !== undefined) unable += 1;
    const reason =
      view.loss ?? inability ?? (driver === undefined ? silence(demand) : unfit(view, demand));
    if (driver !== undefined && reason === undefined)
      fits.push({ view, driver, load: loadOf(view, demand) });
    else reasons.push(`${view.name}: ${reason ?? ''}`);
  }
  const rank = ({ driver }: Fit): number => preference.indexOf(driver);
  const [best, next] = fits.toSorted(
    (a, b) =>
      rank(a) - rank(b) ||
      Number(b.view.hasSpare ?? false) - Number(a.view.hasSpare ?? false) ||
      Number(b.view.hasMemory ?? false) - Number(a.view.hasMemory ?? false) ||
      Number(b.view.hasImage) - Number(a.view.hasImage) ||
      a.load - b.load ||
      a.view.name.localeCompare(b.view.name),
  );
  if (best) {
    const { name, ownCores } = best.view;
    const why = `${name}: ${distinction(best, next, fits)}`;
    const cores = demand.isPinned && { cores: ownCores.free.slice(0, demand.cpus) };
    return { host: name, driver: best.driver, why, tier: tierOn(best.view), ...cores };
  }
  if (answering === 0) throw silent(demand, views.length, reasons);
  if (unable === labelled.length)
    throw new GridError('BAD_REQUEST', `no host can run the machine: ${reasons.join('; ')}`);
  throw new GridError('LIMIT_REACHED', `no host can take the machine: ${reasons.join('; ')}`);
}

/**
 * Whether a machine of nobody's can be there, as users' can.
 * @returns how full the host is with it: 1 is full; `undefined`: it cannot
 */
export function loadWith(view: HostView, demand: Demand): number | undefined {
  const isAble = driverOf(view, demand).driver !== undefined;
  return isAble && unfit(view, demand) === undefined ? loadOf(view, demand) : undefined;
}

type Choice = {
  /** How many answer that are for such an image. */
  readonly candidates: number;
  /** The quickest that can run it. */
  readonly driver?: Driver | undefined;
  /** Why none of them can. */
  readonly inability?: string;
};

function driverOf({ drivers, whyUnable }: HostView, demand: Demand): Choice {
  const candidates = preference.filter(
    (each) => demand.drivers.includes(each) && drivers.includes(each),
  );
  const reasons = candidates.map((each) => whyUnable?.(each, demand));
  const driver = candidates.find((_, at) => reasons[at] === undefined);
  const isUnable = candidates.length > 0 && driver === undefined;
  return {
    candidates: candidates.length,
    driver,
    ...(isUnable && { inability: reasons.join(', ') }),
  };
}

function tierOn({ hasSpare, hasMemory, hasOwnStorage, hasImage }: HostView): StartTier {
  if (hasSpare) return 'spare';
  if (hasMemory) return 'warm';
  return hasOwnStorage && !hasImage ? 'fetch' : 'cold';
}

function silence({ drivers }: Demand): string {
  return `no libvirt for ${drivers.join(' or ')} answers`;
}

/** Why a machine cannot be there; `undefined`: it can. */
function unfit(view: HostView, demand: Demand): string | undefined {
  if (view.isDrained) return 'it is drained, and takes no new machines';
  if (view.problem !== undefined) return view.problem;
  if (!view.isLocal && demand.localOnly !== undefined) return demand.localOnly;
  if (view.hasOwnStorage && demand.sharedOnly !== undefined) return demand.sharedOnly;
  const noNetwork = demand.network && view.whyNoNetwork?.(demand.network);
  if (noNetwork) return `its networks: ${demand.network}: ${noNetwork}`;
  if (!view.room) return 'what it has is not known yet';
  const lacks = [...shortages(view, demand), ...ownShortage(view, demand)];
  return lacks.length === 0 ? undefined : lacks.join(', ');
}

function shortages(view: HostView, demand: Demand): string[] {
  const { room = {}, used } = view;
  const rows = [
    ['cores', demand.isPinned ? 0 : demand.cpus, sharedCores(view)],
    ['memoryMiB', demand.memoryMiB, room.memoryMiB],
    ['diskMiB', demand.diskMiB, room.diskMiB],
  ] as const;
  return rows.flatMap(([name, asked, has]) => {
    if (has === undefined || asked === 0 || used[name] + asked <= has) return [];
    return [`${name}: ${asked} asked for, ${Math.max(0, has - used[name])} of ${has} free`];
  });
}

/** For machines that have none of their own. */
function sharedCores({ room, ownCores }: HostView): number | undefined {
  return room?.cores === undefined ? undefined : Math.max(0, room.cores - ownCores.all);
}

function ownShortage({ ownCores }: HostView, { isPinned, cpus }: Demand): string[] {
  const { all, free } = ownCores;
  if (!isPinned || free.length >= cpus) return [];
  return [`cores for one machine alone: ${cpus} asked for, ${free.length} of ${all} free`];
}

/** Of what is scarcest there, with the machine: 1 is full. Without a bound it is never loaded. */
function loadOf(view: HostView, { cpus, memoryMiB, isPinned }: Demand): number {
  const { room = {}, used, ownCores } = view;
  const share = (has: number | undefined, takes: number): number =>
    has === undefined || has === 0 ? 0 : takes / has;
  return Math.max(
    isPinned
      ? share(ownCores.all, ownCores.all - ownCores.free.length + cpus)
      : share(sharedCores(view), used.cores + cpus),
    share(room.memoryMiB, used.memoryMiB + memoryMiB),
  );
}

function distinction(best: Fit, next: Fit | undefined, fits: readonly Fit[]): string {
  if (!next) return 'the only one where it fits';
  const of = `of ${fits.length} where it fits`;
  if (best.driver !== next.driver) return `it has ${best.driver}, ${of}`;
  if (best.view.hasSpare !== next.view.hasSpare) return `a spare of its image runs there, ${of}`;
  if (best.view.hasMemory !== next.view.hasMemory)
    return `memory of its image is saved there, ${of}`;
  if (best.view.hasImage !== next.view.hasImage) return `its image is at hand there, ${of}`;
  if (best.load !== next.load) return `most room is left there, ${of}`;
  return `as good as any ${of}`;
}

function noSuchLabels(views: readonly HostView[], { labels, labelsField }: Demand): GridError {
  const known = [...new Set(views.flatMap((view) => view.labels))].sort();
  const there = known.length === 0 ? 'hosts have no labels here' : `there are ${known.join(', ')}`;
  const text = `${labelsField}: no host has ${labels.join(' and ')}; ${there}`;
  return new GridError('BAD_REQUEST', text, { labels });
}

function silent(demand: Demand, hosts: number, reasons: readonly string[]): GridError {
  const where = hosts === 1 ? '' : `: ${reasons.join('; ')}`;
  const drivers = demand.drivers.join(' or ');
  return new GridError(
    'HYPERVISOR_UNAVAILABLE',
    `no libvirt for ${drivers} answers at present${where}`,
    { drivers: demand.drivers },
  );
}
