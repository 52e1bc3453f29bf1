import { imageFormats, type ImageMetadata } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import type { Asked } from './machine-size.js';
import { chooseControls, type Controls } from './resource-controls.js';
import { VmError } from './state.js';
import type {
  Driver,
  ParameterChange,
  TargetSystem,
  TargetSystemParameters,
} from './target-system.js';

type Limits = Controls & { readonly cpus: number; readonly memoryMiB: number };
type Range = { readonly min: number; readonly max: number };

/**
 * What the machine gets: as asked for, else the image's default, within what image and site allow.
 * @throws {@link VmError} `BAD_REQUEST` naming the parameter and its range, or why it cannot be had
 */
export function chooseParameters(
  wish: TargetSystemParameters,
  metadata: ImageMetadata,
  driver: Driver,
  site: Limits,
): TargetSystem['parameters'] {
  const choose = (name: 'cpus' | 'memoryMiB'): number => {
    const range = metadata.requirements[name];
    const max = Math.min(range.max, site[name]);
    const asked = wish[name] ?? {
      value: Math.min(range.default, max),
      field: `parameters.${name}`,
    };
    return within({ min: range.min, max }, asked, name === 'memoryMiB' ? ' MiB' : '');
  };
  const [cpus, memoryMiB] = [choose('cpus'), choose('memoryMiB')];
  const { memoryMaxMiB } = wish;
  if (memoryMaxMiB) {
    const { max } = metadata.requirements.memoryMiB;
    within({ min: memoryMiB, max: Math.min(max, site.memoryMiB) }, memoryMaxMiB, ' MiB');
  }
  const machine = { driver, metadata, cpus, memoryMaxMiB: memoryMaxMiB?.value ?? memoryMiB };
  return {
    ...{ cpus, memoryMiB, ...(memoryMaxMiB && { memoryMaxMiB: memoryMaxMiB.value }) },
    ...chooseControls(wish, {}, machine, site),
  };
}

/**
 * What a machine that is there already has after a change.
 * @throws as {@link chooseParameters}
 */
export function changeParameters(
  { image: { metadata }, driver, parameters }: TargetSystem,
  change: ParameterChange,
  site: Limits,
): TargetSystem['parameters'] {
  const { cpus, memoryMaxMiB = parameters.memoryMiB } = parameters;
  const { min } = metadata.requirements.memoryMiB;
  const { memoryMiB } = change;
  if (memoryMiB) within({ min, max: memoryMaxMiB }, memoryMiB, ' MiB');
  const machine = { driver, metadata, cpus, memoryMaxMiB };
  return {
    ...{ cpus, memoryMiB: memoryMiB?.value ?? parameters.memoryMiB },
    // kept: a machine never grows above what it was made with
    ...((memoryMiB ?? parameters.memoryMaxMiB) && { memoryMaxMiB }),
    ...chooseControls(change, parameters, machine, site),
  };
}

function within({ min, max }: Range, { value, field }: Asked, unit: string): number {
  if (value >= min && value <= max) return value;
  throw new VmError(
    'BAD_REQUEST',
    `${field}: ${value}${unit} is outside ${min}-${max}, the range of this image on this site`,
  );
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
