import { imageFormats, type ImageMetadata, type ImageRecord } from '#imagerepo/contract.js';
import { compareVersions, parseVersionRange } from '../incarnation/version.js';
import type { ImageRequirements, ImageWish } from './image-wish.js';
import type { Asked, MachineSize } from './machine-size.js';
import { VmError } from './state.js';
import type { Driver } from './target-system.js';

/** What decides between images. */
export type Choice = {
  readonly requirements: ImageRequirements;
  readonly size: MachineSize;
  readonly callerDn: string;
  readonly limits: { readonly cpus: number; readonly memoryMiB: number };
  readonly drivers: readonly Driver[];
  /** A machine larger than was asked for will do. */
  readonly atLeast: boolean;
};

/** For the log of the job: which, and why. */
export type ChosenImage = { readonly image: ImageRecord; readonly why: string };

type Fit = { readonly image: ImageRecord; readonly version: string };

/**
 * The best of the images that a search has found, the newest first: that with the newest version of the
 * application, then the user's own, then the newest.
 * @throws {@link VmError} `IMAGE_UNKNOWN` saying why none of them fits
 */
export function chooseImage(found: readonly ImageRecord[], choice: Choice): ChosenImage {
  const { requirements, callerDn } = choice;
  const fits: Fit[] = [];
  const reasons: string[] = [];
  for (const image of found) {
    const version = applicationVersionOf(image.metadata, requirements);
    const reason =
      version === undefined
        ? missing(requirements)
        : (unlike(image.metadata, requirements) ?? unfit(image.metadata, choice));
    if (reason === undefined && version !== undefined) fits.push({ image, version });
    else reasons.push(`${nameOf(image)}: ${reason ?? ''}`);
  }
  const isOwn = ({ image }: Fit): number => Number(image.owner === callerDn);
  const [best, ...others] = fits.toSorted(
    (a, b) => compareVersions(b.version, a.version) || isOwn(b) - isOwn(a),
  );
  if (!best) throw noneFits(requirements, reasons);
  const { application } = requirements;
  const offers = application === undefined ? '' : ` it has ${application} ${best.version},`;
  const [next] = others;
  return {
    image: best.image,
    why:
      `${nameOf(best.image)} was chosen:${offers} ` +
      (next
        ? `it is ${distinction(best, next, callerDn)} of ${fits.length} that fit`
        : 'it is the only one that fits'),
  };
}

/** How an image is called in what users read. */
export function nameOf({ id, metadata }: Pick<ImageRecord, 'id' | 'metadata'>): string {
  return `image ${metadata.name}:${metadata.version} (${id})`;
}

/** Whether a machine that there is already would do. */
export function satisfies(
  image: Pick<ImageRecord, 'id' | 'metadata'>,
  { reference, requirements }: ImageWish,
): boolean {
  const { id, metadata } = image;
  const { name, version } = metadata;
  const isNamed = reference === undefined || [id, name, `${name}:${version}`].includes(reference);
  return (
    isNamed &&
    unlike(metadata, requirements) === undefined &&
    applicationVersionOf(metadata, requirements) !== undefined
  );
}

/** What is another than required; `undefined`: nothing. Applications are looked at elsewhere. */
export function unlike(
  { name, version, format, os }: ImageMetadata,
  wish: ImageRequirements,
): string | undefined {
  const has: Partial<Record<keyof ImageRequirements, string>> = {
    ...{ name, version, format, osType: os.type },
    ...{ os: os.distribution, osVersion: os.version, architecture: os.architecture },
  };
  for (const [key, value] of Object.entries(has)) {
    const wanted = wish[key as keyof typeof has]; // keys of the object above
    if (wanted !== undefined && wanted !== value) return `${key} is ${value}, not ${wanted}`;
  }
  return undefined;
}

/** The newest version of the application that will do; empty where none is asked for. */
function applicationVersionOf(
  { applications }: ImageMetadata,
  { application, applicationVersion }: ImageRequirements,
): string | undefined {
  if (application === undefined) return '';
  const range =
    applicationVersion === undefined ? undefined : parseVersionRange(applicationVersion);
  return applications
    .filter(({ Name, Version }) => {
      if (Name !== application) return false;
      return range ? range(Version) : [undefined, Version].includes(applicationVersion);
    })
    .map(({ Version }) => Version)
    .toSorted(compareVersions)
    .at(-1);
}

function missing({ application, applicationVersion }: ImageRequirements): string {
  return `has no ${[application, applicationVersion].filter(Boolean).join(' ')}`;
}

/** Why a machine of the size cannot be made of it; `undefined`: it can. */
function unfit(
  metadata: ImageMetadata,
  { size, limits, drivers, atLeast }: Choice,
): string | undefined {
  const possible: readonly Driver[] = imageFormats[metadata.format].drivers;
  if (!possible.some((driver) => drivers.includes(driver)))
    return `nothing here runs the format ${metadata.format} at present`;
  for (const name of ['cpus', 'memoryMiB'] as const) {
    const most = Math.min(metadata.requirements[name].max, limits[name]);
    const asked = size[name];
    if (asked && asked.value > most) return `${asked.field}: ${asked.value} is above ${most}`;
    const { min } = metadata.requirements[name];
    if (asked && asked.value < min && !atLeast)
      return `${asked.field}: ${asked.value} is below ${min}`;
    if (min > limits[name])
      return `needs more ${name} than ${limits[name]}, the limit of this site`;
  }
  return undefined;
}

/** A job asks for what it needs: the machine has that at least, and what its image needs. */
export function roomyEnough(size: MachineSize, { requirements }: ImageMetadata): MachineSize {
  const atLeast = (asked: Asked | undefined, min: number) =>
    asked && { ...asked, value: Math.max(asked.value, min) };
  const cpus = atLeast(size.cpus, requirements.cpus.min);
  const memoryMiB = atLeast(size.memoryMiB, requirements.memoryMiB.min);
  return { ...(cpus && { cpus }), ...(memoryMiB && { memoryMiB }) };
}

function distinction(best: Fit, next: Fit, callerDn: string): string {
  if (compareVersions(best.version, next.version) !== 0) return 'the newest version';
  if (best.image.owner === callerDn && next.image.owner !== callerDn) return 'your own';
  return 'the newest';
}

function noneFits(requirements: ImageRequirements, reasons: readonly string[]): VmError {
  const wanted = Object.entries(requirements)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
  const shown = reasons.slice(0, 5).join('; ');
  const text =
    reasons.length === 0
      ? `Image: there is no published image with ${wanted}`
      : `Image: none of ${reasons.length} images fits: ${shown}`;
  return new VmError('IMAGE_UNKNOWN', text, { wanted });
}
