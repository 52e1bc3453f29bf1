import {
  imageFormats,
  type ImageMetadata,
  type ImageRecord,
  type NetworkKind,
} from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import { driverAbilities } from './hosts/driver-abilities.js';
import type { Asked } from './machine-size.js';
import type { Bounds } from './placement/flavours.js';
import { chooseControls, type Controls } from './resource-controls.js';
import { VmError } from './state.js';
import type {
  Driver,
  ParameterChange,
  TargetSystem,
  TargetSystemParameters,
} from './target-system.js';

type Range = { readonly min: number; readonly max: number };
type Sized = Pick<ImageRecord, 'metadata' | 'parts'> & Pick<TargetSystem, 'volumes'>;

const bytesPerMiB = 1024 ** 2;

/**
 * What the machine gets: as asked for, else what its flavour or its image says, within what image and bounds
 * allow.
 * @throws {@link VmError} `BAD_REQUEST` naming the parameter and its range, or why it cannot be had
 */
export function chooseParameters(
  wish: TargetSystemParameters,
  { metadata, parts, volumes }: Sized,
  driver: Driver,
  bounds: Bounds,
): TargetSystem['parameters'] {
  const [cpus, memoryMiB] = [
    chooseSize('cpus', wish.cpus, metadata, bounds),
    chooseSize('memoryMiB', wish.memoryMiB, metadata, bounds),
  ];
  const { memoryMaxMiB } = wish;
  if (memoryMaxMiB) {
    const { max } = metadata.requirements.memoryMiB;
    const most = Math.min(max, bounds.memoryMiB.max ?? max);
    within({ min: memoryMiB, max: most }, memoryMaxMiB, ' MiB');
  }
  const diskMiB = chooseDisk(wish.diskMiB, parts.disk, bounds);
  const network = chooseNetwork(wish.network, metadata, bounds);
  const isPinned = choosePinned(wish.pinned, driver, bounds);
  const memory = memoryMaxMiB?.value ?? memoryMiB;
  const machine = { driver, metadata, cpus, memoryMaxMiB: memory, network, volumes };
  return {
    ...{ cpus, memoryMiB, ...(memoryMaxMiB && { memoryMaxMiB: memoryMaxMiB.value }) },
    ...(diskMiB !== undefined && { diskMiB }),
    ...(network !== 'none' && { network }),
    ...(isPinned && { pinned: true as const }),
    ...chooseControls(wish, {}, machine, bounds.controls),
  };
}

function chooseSize(
  name: 'cpus' | 'memoryMiB',
  asked: Asked | undefined,
  { requirements }: ImageMetadata,
  bounds: Bounds,
): number {
  const { [name]: image } = requirements;
  const { [name]: own, flavour } = bounds;
  const max = Math.min(image.max, own.max ?? image.max);
  const min = Math.max(image.min, own.min ?? 0);
  const usual = Math.min(Math.max(own.default ?? image.default, min), max);
  const unit = name === 'memoryMiB' ? ' MiB' : '';
  const size = asked ?? { value: usual, field: `parameters.${name}` };
  return within({ min, max }, size, unit, flavour);
}

/** Whether the site offers it is for {@link MachineNetworks} to say. */
function chooseNetwork(
  asked: Asked<NetworkKind> | undefined,
  { requirements }: ImageMetadata,
  { networks, flavour }: Bounds,
): NetworkKind {
  const { value, field } = asked ?? {
    value: requirements.network ?? 'none',
    field: "the image's requirements.network",
  };
  if (value === 'none' || (networks?.includes(value) ?? true)) return value;
  const reason = `${value} is not in the flavour ${flavour}, which has ${networks?.join(', ')}`;
  throw new VmError('BAD_REQUEST', `${field}: ${reason}`);
}

/** Whether there are such cores is for the hosts to say. */
function choosePinned(
  asked: Asked<boolean> | undefined,
  driver: Driver,
  { pinned, flavour }: Bounds,
): boolean {
  const { value, field } = asked ?? { value: pinned ?? false, field: 'parameters.pinned' };
  const refuse = (reason: string): never => {
    throw new VmError('BAD_REQUEST', `${field}: ${reason}`);
  };
  if (value && pinned === false) refuse(`cores of its own are not in the flavour ${flavour}`);
  if (value && !driverAbilities[driver].pinning)
    refuse(`the driver ${driver} cannot give a machine cores of its own`);
  return value;
}

/** Of an image with a disk; it can be made larger, never smaller. */
function chooseDisk(
  asked: Asked | undefined,
  disk: Sized['parts']['disk'],
  { diskMiB: own, flavour }: Bounds,
): number | undefined {
  if (!disk) {
    if (asked) throw new VmError('BAD_REQUEST', `${asked.field}: the image has no disk`);
    return undefined;
  }
  // published before its size was noted: what it has is at least what is stored
  const { virtualBytes, sizeBytes } = disk;
  const min = Math.ceil((virtualBytes ?? sizeBytes) / bytesPerMiB);
  if (virtualBytes === undefined) {
    if (!asked) return min;
    const text = 'the size of its disk is not known: publish the image anew';
    throw new VmError('BAD_REQUEST', `${asked.field}: ${text}`);
  }
  const max = own.max ?? min;
  const usual = Math.max(own.default ?? min, min);
  const size = asked ?? { value: usual, field: 'parameters.diskMiB' };
  return within({ min, max }, size, ' MiB', flavour);
}

/**
 * What a machine that is there already has after a change.
 * @throws as {@link chooseParameters}
 */
export function changeParameters(
  { image: { metadata }, driver, parameters, limits, volumes }: TargetSystem,
  change: ParameterChange,
  site: Controls,
): TargetSystem['parameters'] {
  const { cpus, memoryMaxMiB = parameters.memoryMiB, network, pinned } = parameters;
  const { min } = metadata.requirements.memoryMiB;
  const { memoryMiB } = change;
  if (memoryMiB) within({ min, max: memoryMaxMiB }, memoryMiB, ' MiB');
  const machine = { driver, metadata, cpus, memoryMaxMiB, network, volumes };
  return {
    ...{ cpus, memoryMiB: memoryMiB?.value ?? parameters.memoryMiB },
    // kept: a machine never grows above what it was made with
    ...((memoryMiB ?? parameters.memoryMaxMiB) && { memoryMaxMiB }),
    ...(parameters.diskMiB !== undefined && { diskMiB: parameters.diskMiB }),
    ...(network && { network }),
    ...(pinned && { pinned }),
    ...chooseControls(change, parameters, machine, { ...site, ...limits }),
  };
}

function within(
  { min, max }: Range,
  { value, field }: Asked,
  unit: string,
  flavour?: string,
): number {
  if (value >= min && value <= max) return value;
  const where = flavour === undefined ? '' : ` in the flavour ${flavour}`;
  const reason =
    min > max
      ? `the image needs ${min}${unit} at least, and has ${max} at most${where} on this site`
      : `${value}${unit} is outside ${min}-${max}, the range of this image${where} on this site`;
  throw new VmError('BAD_REQUEST', `${field}: ${reason}`);
}

/** The first of the drivers for an image that answers. @throws `HYPERVISOR_UNAVAILABLE` naming them */
export function chooseDriver({ format }: ImageMetadata, available: readonly Driver[]): Driver {
  const { drivers } = imageFormats[format];
  const driver = drivers.find((name) => available.includes(name));
  if (driver) return driver;
  throw new GridError(
    'HYPERVISOR_UNAVAILABLE',
    `no libvirt for ${drivers.join(' or ')} answers at present: images of format ${format} cannot be started`,
    { available },
  );
}
