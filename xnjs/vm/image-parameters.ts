import { readParameter, type ImageMetadata, type ParameterValue } from '#imagerepo/contract.js';
import { VmError } from './state.js';

/** Values for what an image's metadata declare, by name. */
export type ImageParameters = Readonly<Record<string, ParameterValue>>;

/** As they were asked for, and where they stand in the request: for messages. */
export type ImageParameterWish = {
  readonly values: Readonly<Record<string, unknown>>;
  readonly field: string;
};

/** What names of variables begin with, in jobs and in the machine's file. */
const variablePrefix = 'VSITE_PARAM_';

/** @throws {@link VmError} `BAD_REQUEST` naming the field */
export function readImageParameters(field: string, given: unknown): ImageParameterWish | undefined {
  if (given === undefined || given === null) return undefined;
  if (typeof given !== 'object' || Array.isArray(given))
    throw new VmError('BAD_REQUEST', `${field}: must be values by name`);
  return { values: { ...given }, field };
}

/**
 * The values that a machine of the image has: those that were asked for, and defaults.
 * @returns `undefined`: the image declares none
 * @throws {@link VmError} `BAD_REQUEST` naming the parameter and the reason
 */
export function chooseImageParameters(
  { parameters: declared = {} }: Pick<ImageMetadata, 'parameters'>,
  { values, field }: ImageParameterWish = { values: {}, field: 'imageParameters' },
): ImageParameters | undefined {
  const given = Object.entries(values).filter(([, value]) => value !== undefined && value !== null);
  for (const [name] of given)
    if (!Object.hasOwn(declared, name)) throw refusal(`${field}.${name}`, unknownName(declared));
  const wanted = new Map(given);
  const chosen: Record<string, ParameterValue> = {};
  for (const [name, declaration] of Object.entries(declared)) {
    const value = wanted.get(name) ?? declaration.default;
    if (value === undefined) {
      if (declaration.required) throw refusal(`${field}.${name}`, 'the image needs a value for it');
      continue;
    }
    const read = readParameter(declaration, value);
    if ('reason' in read) throw refusal(`${field}.${name}`, read.reason);
    chosen[name] = read.value;
  }
  return Object.keys(declared).length === 0 ? undefined : chosen;
}

/** As variables of the environment. */
export function parameterVariables(parameters: ImageParameters = {}): Record<string, string> {
  return Object.fromEntries(
    Object.entries(parameters).map(([name, value]) => [`${variablePrefix}${name}`, String(value)]),
  );
}

function unknownName(declared: NonNullable<ImageMetadata['parameters']>): string {
  const names = Object.keys(declared);
  return names.length === 0
    ? 'the image has no parameters'
    : `the image has no such parameter; it has ${names.join(', ')}`;
}

function refusal(field: string, reason: string): VmError {
  return new VmError('BAD_REQUEST', `${field}: ${reason}`);
}
