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
/**
 * RE2 matches in linear time, which is that of program and text together: these bound what the parameters of one
 * image cost whoever reads it, to some 10 ms.
 */
const largestProgram = 400;
const longestMatched = 256;

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
    /** Of the whole text, of 256 characters at most, in the syntax of RE2. */
    pattern: z.string().max(256).optional(),
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
type TextDeclaration = Extract<ParameterDeclaration, { type: 'string' }>;
export type ParameterValue = string | number | boolean;

/** By name. */
export const ImageParameters = z
  .record(parameterName, Declaration)
  .refine(
    (all) => Object.keys(all).length <= mostParameters,
    `must not be more than ${mostParameters}`,
  )
  .superRefine((all, context) => {
    let left = largestProgram;
    for (const [name, declaration] of Object.entries(all)) {
      const refuse = (field: string, message: string): void =>
        context.addIssue({ code: 'custom', path: [name, field], message });
      left -= programSize(declaration);
      if (Number.isNaN(left)) refuse('pattern', 'must be a regular expression of RE2');
      else if (left < 0) refuse('pattern', 'is too large, with those of the parameters before it');
      else {
        check(declaration, refuse);
        continue;
      }
      return; // nothing is compiled after one that is refused
    }
  });
export type ImageParameters = z.output<typeof ImageParameters>;

function check(
  declaration: ParameterDeclaration,
  refuse: (field: string, message: string) => void,
): void {
  const { least = -Infinity, most = Infinity, field } = boundsOf(declaration);
  if (least > most) refuse(field, `must not be below ${least}, the smallest`);
  if (declaration.default === undefined) return;
  if (declaration.required) refuse('required', 'must not be where there is a default');
  const read = readParameter(declaration, declaration.default);
  if ('reason' in read) refuse('default', read.reason);
}

type Bounds = { readonly least?: number | undefined; readonly most?: number | undefined };

function longestOf({ maxLength = longestText, pattern }: TextDeclaration): number {
  return pattern === undefined ? maxLength : Math.min(maxLength, longestMatched);
}

/** @returns with the field that names the upper one */
function boundsOf(declaration: ParameterDeclaration): Bounds & { readonly field: string } {
  switch (declaration.type) {
    case 'string':
      return { least: declaration.minLength, most: longestOf(declaration), field: 'maxLength' };
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
  declaration: TextDeclaration,
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

/** Of its pattern, in RE2's instructions; `NaN`: it is none. */
function programSize(declaration: ParameterDeclaration): number {
  if (declaration.type !== 'string' || declaration.pattern === undefined) return 0;
  try {
    return RE2JS.compile(declaration.pattern).programSize();
  } catch {
    return NaN;
  }
}
