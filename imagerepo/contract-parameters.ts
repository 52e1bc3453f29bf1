import { RE2JS } from 're2js';
import { z } from 'zod';
import { line } from './contract-idb.js';

/**
 * What owners of target systems may decide about their machines: an image creator declares parameters, owners
 * give values. Part of the contract, see there.
 */

const mostParameters = 64;
const mostChoices = 100;
/** The limit of a text that declares none. */
const longestText = 1_024;

/** Also the end of a variable's name in the machine. */
export const parameterName = z
  .string()
  .regex(
    /^[A-Za-z][A-Za-z0-9_]{0,39}$/,
    'must be a letter, then letters, digits and _, at most 40',
  );

const about = {
  description: line.optional(),
  /** Owners have to give a value. */
  required: z.boolean().default(false),
};
const length = z.int().min(0).max(longestText).optional();
const number = z.number().optional();
const integer = z.int().optional();

/** By its type. A value that is given as text is read as that type. */
const Declaration = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('string'),
    default: line.optional(),
    minLength: length,
    maxLength: length,
    /** Of the whole text, in the syntax of RE2: matched in linear time. */
    pattern: z
      .string()
      .max(256)
      .refine(isPattern, 'must be a regular expression of RE2')
      .optional(),
    ...about,
  }),
  z.strictObject({
    type: z.literal('integer'),
    default: integer,
    min: integer,
    max: integer,
    ...about,
  }),
  z.strictObject({
    type: z.literal('number'),
    default: number,
    min: number,
    max: number,
    ...about,
  }),
  z.strictObject({ type: z.literal('boolean'), default: z.boolean().optional(), ...about }),
  z.strictObject({
    type: z.literal('choice'),
    values: z
      .array(line.min(1, 'must not be empty').max(256))
      .min(1, 'must name at least one value')
      .max(mostChoices)
      .refine((all) => new Set(all).size === all.length, 'names a value twice'),
    default: line.optional(),
    ...about,
  }),
]);
export type ParameterDeclaration = z.output<typeof Declaration>;
export type ParameterValue = string | number | boolean;

const Parameter = Declaration.superRefine((declaration, context) => {
  const refuse = (field: string, message: string): void =>
    context.addIssue({ code: 'custom', path: [field], message });
  const { least = -Infinity, most = Infinity, field } = boundsOf(declaration);
  if (least > most) refuse(field, `must not be below ${least}, the smallest`);
  if (declaration.default === undefined) return;
  if (declaration.required) refuse('required', 'must not be where there is a default');
  const read = readParameter(declaration, declaration.default);
  if ('reason' in read) refuse('default', read.reason);
});

/** By name. */
export const ImageParameters = z
  .record(parameterName, Parameter)
  .refine(
    (all) => Object.keys(all).length <= mostParameters,
    `must not be more than ${mostParameters}`,
  );
export type ImageParameters = z.output<typeof ImageParameters>;

type Bounds = { readonly least?: number | undefined; readonly most?: number | undefined };

/** @returns with the field that names the upper one */
function boundsOf(declaration: ParameterDeclaration): Bounds & { readonly field: string } {
  switch (declaration.type) {
    case 'string':
      return { least: declaration.minLength, most: declaration.maxLength, field: 'maxLength' };
    case 'integer':
    case 'number':
      return { least: declaration.min, most: declaration.max, field: 'max' };
    case 'boolean':
    case 'choice':
      return { field: 'type' };
  }
}

/**
 * A value as its declaration wants it; also one that was written as text, as command lines and older clients do.
 * @returns the reason, where it is none
 */
export function readParameter(
  declaration: ParameterDeclaration,
  given: unknown,
): { readonly value: ParameterValue } | { readonly reason: string } {
  const { type } = declaration;
  switch (type) {
    case 'string':
      return readText(declaration, given);
    case 'integer':
    case 'number': {
      const value = toNumber(given);
      if (value === undefined || (type === 'integer' && !Number.isSafeInteger(value)))
        return { reason: type === 'integer' ? 'must be a whole number' : 'must be a number' };
      const reason = outside(boundsOf(declaration), value);
      return reason === undefined ? { value } : { reason: `${value} ${reason}` };
    }
    case 'boolean': {
      const value = String(given).toLowerCase();
      if (value === 'true' || value === 'false') return { value: value === 'true' };
      return { reason: 'must be true or false' };
    }
    case 'choice': {
      const { values } = declaration;
      const value = values.find((each) => each === String(given));
      return value === undefined ? { reason: `must be one of ${values.join(', ')}` } : { value };
    }
  }
}

function readText(
  declaration: Extract<ParameterDeclaration, { type: 'string' }>,
  given: unknown,
): { readonly value: string } | { readonly reason: string } {
  const { pattern } = declaration;
  const read = z.union([z.string(), z.number(), z.boolean()]).transform(String).safeParse(given);
  if (!read.success) return { reason: 'must be a text' };
  const value = read.data;
  const checked = line.safeParse(value);
  if (!checked.success) return { reason: checked.error.issues[0]?.message ?? 'must be a text' };
  const reason = outside(boundsOf(declaration), Array.from(value).length);
  if (reason !== undefined) return { reason: `its length ${reason}` };
  if (pattern !== undefined && !RE2JS.matches(pattern, value))
    return { reason: `must match ${pattern}` };
  return { value };
}

function toNumber(given: unknown): number | undefined {
  const isText = typeof given === 'string' && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(given);
  if (typeof given !== 'number' && !isText) return undefined;
  return Number.isFinite(Number(given)) ? Number(given) : undefined;
}

function outside(
  { least = -Infinity, most = Infinity }: Bounds,
  value: number,
): string | undefined {
  if (value < least) return `is below ${least}, the smallest`;
  return value > most ? `is above ${most}, the largest` : undefined;
}

function isPattern(pattern: string): boolean {
  try {
    RE2JS.compile(pattern);
    return true;
  } catch {
    return false;
  }
}
