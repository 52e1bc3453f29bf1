import { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { VmError } from './state.js';

const word = z
  .union([z.string(), z.number()], 'must be a text')
  .transform(String)
  .pipe(z.string().regex(/^[^\0\r\n]{1,256}$/, 'must have 1 to 256 characters, on one line'));

/** What the image of a job's machine must have. */
const ImageRequirements = z.strictObject({
  name: word.optional(),
  version: word.optional(),
  application: word.optional(),
  /** A version, or a range of them as jobs may name it. */
  applicationVersion: word.optional(),
  /** The distribution, `Debian`. */
  os: word.optional(),
  osVersion: word.optional(),
  architecture: z.enum(['x86_64', 'aarch64']).optional(),
  format: z.enum(['kernel', 'qcow2', 'rootfs']).optional(),
});
export type ImageRequirements = z.output<typeof ImageRequirements>;

/** An image's id, name or `name:version`; or what it must have. */
export type ImageWish = string | ImageRequirements;

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

/**
 * What image a job description asks for, at its top or among its resources.
 * @returns `undefined`: it asks for none, and is a job as any other
 * @throws {@link VmError} `BAD_REQUEST` naming the field
 */
export function readImageWish(
  description: Readonly<Record<string, unknown>>,
): ImageWish | undefined {
  const [field, wish] = findMember(description, 'Image');
  return wish === undefined ? undefined : parseImageWish(field, wish);
}

/**
 * An image by its name, or what it must have.
 * @throws {@link VmError} `BAD_REQUEST` naming the field
 */
export function parseImageWish(field: string, wish: unknown): ImageWish {
  if (!isMap(wish)) return checked(field, word, wish);
  const members = Object.entries(wish)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [aliases[name] ?? name, value]);
  return checked(field, ImageRequirements, Object.fromEntries(members));
}

/** The size by name that a job's machine is to have. @throws as {@link readImageWish} */
export function readFlavour(description: Readonly<Record<string, unknown>>): string | undefined {
  const [field, wish] = findMember(description, 'Flavour');
  return wish === undefined ? undefined : checked(field, word, wish);
}

/** At the top of a job description, else among its resources; where it was found, and what. */
function findMember(
  description: Readonly<Record<string, unknown>>,
  name: 'Image' | 'Flavour',
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
