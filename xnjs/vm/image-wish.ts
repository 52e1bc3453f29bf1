import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import type { HostLabels } from './hosts/host-placement.js';
import { parseHostLabels } from './hosts/labels.js';
import { readImageParameters, type ImageParameterWish } from './image-parameters.js';
import { VmError } from './state.js';
import { readVolumes, type VolumeWish } from './volumes/volume-wish.js';

const word = z
  .union([z.string(), z.number()], 'must be a text')
  .transform(String)
  .pipe(z.string().regex(/^[^\0\r\n]{1,256}$/, 'must have 1 to 256 characters, on one line'));

const osTypes = ['LINUX', 'FREEBSD', 'WINNT', 'OTHER'] as const;

/** What the image of a job's machine must have. */
const ImageRequirements = z.strictObject({
  name: word.optional(),
  version: word.optional(),
  application: word.optional(),
  /** A version, or a range of them as jobs may name it. */
  applicationVersion: word.optional(),
  /** As JSDL names it (GFD.136, 5.2.1). */
  osType: z.enum(osTypes).optional(),
  /** The distribution, `Debian`. */
  os: word.optional(),
  osVersion: word.optional(),
  architecture: z.enum(['x86_64', 'aarch64']).optional(),
  format: z.enum(['kernel', 'qcow2', 'rootfs']).optional(),
});
export type ImageRequirements = z.output<typeof ImageRequirements>;

export type ImageWish = {
  /** An image's id, name or `name:version`; absent: any that has what is required. */
  readonly reference?: string;
  readonly requirements: ImageRequirements;
};

/** A job that leaves the choice to its other requirements. */
const anyImage = '*';
/**
 * Requirements that stand beside the image's name among the resources, where JSDL has them. Of a job that names
 * no image the original does not look at them (unicore-soap 4.2), and neither do we.
 */
export const imageResources = [
  'OperatingSystem',
  'OperatingSystemVersion',
  'CPUArchitecture',
] as const;

/** What of a job description, at its top or among its resources, is about its machine only. */
export const machineMembers = [
  'Image',
  'Flavour',
  'HostLabels',
  'ImageParameters',
  'Volumes',
] as const;

/** As job descriptions and JSDL call them. */
const aliases: Readonly<Record<string, string>> = {
  Name: 'name',
  Version: 'version',
  ApplicationName: 'application',
  ApplicationVersion: 'applicationVersion',
  OperatingSystem: 'os',
  OperatingSystemVersion: 'osVersion',
  CPUArchitecture: 'architecture',
};

export function namesImage(description: Readonly<Record<string, unknown>>): boolean {
  const { Image: top, Resources: resources } = description;
  return isGiven(top) || (isMap(resources) && isGiven(resources['Image']));
}

/**
 * What image a job description asks for, at its top or among its resources.
 * @returns `undefined`: it asks for none, and is a job as any other
 * @throws {@link VmError} `BAD_REQUEST` naming the field
 */
export function readImageWish(
  description: Readonly<Record<string, unknown>>,
): ImageWish | undefined {
  const [field, wish] = findMember(description, 'Image');
  if (wish === undefined) return undefined;
  const { Resources: resources } = description;
  return parseImageWish(field, wish, isMap(resources) ? besideImage(resources) : {});
}

/**
 * An image by its name, or what it must have.
 * @param beside what else it must have
 * @throws {@link VmError} `BAD_REQUEST` naming the field
 */
export function parseImageWish(
  field: string,
  wish: unknown,
  beside: ImageRequirements = {},
): ImageWish {
  if (isMap(wish)) return { requirements: { ...beside, ...requirementsOf(field, wish) } };
  const reference = checked(field, word, wish);
  return { requirements: beside, ...(reference !== anyImage && { reference }) };
}

function besideImage(resources: Record<string, unknown>): ImageRequirements {
  const found: ImageRequirements = {};
  for (const name of imageResources)
    Object.assign(found, requirementsOf(`Resources.${name}`, { [name]: resources[name] }, true));
  return found;
}

/** @param named the field is that of the one member */
function requirementsOf(
  field: string,
  wish: Record<string, unknown>,
  named = false,
): ImageRequirements {
  const members = Object.entries(wish)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => toMember(aliases[name] ?? name, value));
  const result = ImageRequirements.safeParse(Object.fromEntries(members));
  if (result.success) return result.data;
  const reasons = named
    ? result.error.issues.map(({ message }) => message).join('; ')
    : describeIssues(result.error);
  throw new VmError('BAD_REQUEST', `${field}: ${reasons}`);
}

/** JSDL's names of systems and processors are others than those of distributions and ours. */
function toMember(name: string, value: unknown): [string, unknown] {
  if (name === 'architecture' && value === 'arm') return [name, 'aarch64'];
  const type = name === 'os' && osTypes.find((each) => each === String(value).toUpperCase());
  return type ? ['osType', type] : [name, value];
}

/** The size by name that a job's machine is to have. @throws as {@link readImageWish} */
export function readFlavour(description: Readonly<Record<string, unknown>>): string | undefined {
  const [field, wish] = findMember(description, 'Flavour');
  return wish === undefined ? undefined : checked(field, word, wish);
}

/** What the host of a job's machine must have. @throws as {@link readImageWish} */
export function readHostLabels(
  description: Readonly<Record<string, unknown>>,
): HostLabels | undefined {
  const [field, wish] = findMember(description, 'HostLabels');
  return parseHostLabels(field, wish);
}

/** Values for the image of a job's machine. @throws as {@link readImageWish} */
export function readJobImageParameters(
  description: Readonly<Record<string, unknown>>,
): ImageParameterWish | undefined {
  const [field, wish] = findMember(description, 'ImageParameters');
  return readImageParameters(field, wish);
}

/** Disks of a job's machine. @throws as {@link readImageWish} */
export function readJobVolumes(
  description: Readonly<Record<string, unknown>>,
): VolumeWish | undefined {
  const [field, wish] = findMember(description, 'Volumes');
  return readVolumes(field, wish);
}

/** At the top of a job description, else among its resources; where it was found, and what. */
function findMember(
  description: Readonly<Record<string, unknown>>,
  name: (typeof machineMembers)[number],
): [field: string, wish: unknown] {
  const { [name]: top, Resources: resources } = description;
  const inner = isMap(resources) ? resources[name] : undefined;
  if (isGiven(top)) return [name, top];
  return [`Resources.${name}`, isGiven(inner) ? inner : undefined];
}

function checked<T>(field: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const reasons = describeIssues(result.error);
  throw new VmError('BAD_REQUEST', `${field}: ${reasons}`);
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null && value !== '';
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
