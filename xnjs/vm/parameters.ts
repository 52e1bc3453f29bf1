import { imageFormats, type ImageMetadata } from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import { VmError } from './state.js';
import type { Driver, TargetSystem, TargetSystemParameters } from './target-system.js';

type Limits = { readonly cpus: number; readonly memoryMiB: number };

/**
 * What the machine gets: as asked for, else the image's default, within what image and site allow.
 * @throws {@link VmError} `BAD_REQUEST` naming the parameter and its range
 */
export function chooseParameters(
  wish: TargetSystemParameters,
  { requirements }: ImageMetadata,
  site: Limits,
): TargetSystem['parameters'] {
  const choose = (name: keyof Limits): number => {
    const range = requirements[name];
    const max = Math.min(range.max, site[name]);
    const { value, field } = wish[name] ?? {
      value: Math.min(range.default, max),
      field: `parameters.${name}`,
    };
    if (value >= range.min && value <= max) return value;
    const unit = name === 'memoryMiB' ? ' MiB' : '';
    throw new VmError(
      'BAD_REQUEST',
      `${field}: ${value}${unit} is outside ${range.min}-${max}, the range of this image on this site`,
    );
  };
  return { cpus: choose('cpus'), memoryMiB: choose('memoryMiB') };
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
