import { z } from 'zod';
import { parseQuantity, type UnitKind } from '#kernel/units.js';

/**
 * The incarnation database as it is written: by a site in its IDB file, by an image creator in the
 * image's fragment. Keys are spelt as in UNICORE (tsi-xnjs 6). Part of the contract, see there.
 */

export const line = z
  .string()
  .max(1024)
  .refine((text) => !/[\0\r\n]/.test(text), 'must be one line');
const text = z.union([z.string().max(65_536), z.array(z.string().max(8_192)).max(1_000)]);
const environmentName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be a variable name');
const scalar = z.union([z.string(), z.number(), z.boolean()]).transform(String).pipe(line);
const flag = z
  .union([z.boolean(), z.string()], 'must be true or false')
  .transform((value) => String(value).toLowerCase())
  .pipe(z.enum(['true', 'false'], 'must be true or false'))
  .transform((value) => value === 'true');
const upperCase = z.string().toUpperCase();
const nameList = z.union([environmentName.transform((name) => [name]), z.array(environmentName)]);

export const entryName = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}$/,
    'letters, digits, blanks and ._+- only, at most 80',
  );

/** Says what values an option takes: shown to clients, and checked when a job gives one. */
const Parameter = z.strictObject({
  Type: upperCase
    .pipe(z.enum(['STRING', 'CHOICE', 'BOOLEAN', 'INT', 'DOUBLE', 'FILENAME', 'FILESET']))
    .prefault('STRING'),
  Description: line.optional(),
  ValidValues: z.array(scalar).optional(),
  /** For clients; it is not applied. */
  Default: scalar.optional(),
  /** Options that must be given too, or that must not. */
  DependsOn: nameList.optional(),
  Excludes: nameList.optional(),
});
export type IdbParameter = z.output<typeof Parameter>;

/** Resource names become `#TSI_SSR_<NAME>`: nothing else fits there. */
const resourceName = z
  .string()
  .regex(/^[A-Za-z][A-Za-z0-9_ ]{0,63}$/, 'must be letters, digits, blanks and _');

export const IdbApplication = z.strictObject({
  Name: entryName,
  Version: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}$/, 'letters, digits and ._+- only, at most 40'),
  Description: line.optional(),
  /** Shell text: a command, perhaps with options. */
  Executable: line,
  /** An entry that ends in `?` is kept only if the variable in it is set. */
  Arguments: z.array(line).max(1_000).optional(),
  Environment: z.record(environmentName, scalar).optional(),
  /** Run before and after the job's script, on the login node where there is one. */
  PreCommand: text.optional(),
  PostCommand: text.optional(),
  /** Parts of the job's script. */
  Prologue: text.optional(),
  Epilogue: text.optional(),
  RunOnLoginNode: flag.optional(),
  IgnoreNonZeroExitCode: flag.optional(),
  /** What is asked for unless the job says otherwise. */
  Resources: z.record(resourceName, scalar).optional(),
  Parameters: z.record(environmentName, Parameter).optional(),
});
export type IdbApplication = z.output<typeof IdbApplication>;

/** What can be asked for of one resource. Numbers are in the base unit: seconds, bytes. */
export type IdbResource = { readonly Description?: string | undefined } & (
  | {
      readonly Type: 'INT' | 'DOUBLE';
      readonly Min: number;
      readonly Max: number;
      readonly Default?: number | undefined;
    }
  | {
      readonly Type: 'CHOICE';
      readonly AllowedValues: readonly string[];
      readonly Default?: string | undefined;
    }
  | { readonly Type: 'STRING' | 'BOOLEAN'; readonly Default?: string | undefined }
);

const aliases: Partial<Record<string, string>> = { CPUs: 'TotalCPUs', Memory: 'MemoryPerNode' };
const kinds: Partial<Record<string, UnitKind>> = { Runtime: 'seconds', MemoryPerNode: 'bytes' };

/** `Memory` and `CPUs` are other words for the same. */
export function canonicalResource(name: string): string {
  return aliases[name] ?? name;
}

export function resourceUnit(name: string): UnitKind {
  return kinds[canonicalResource(name)] ?? 'count';
}

const number = z.union([z.number(), z.string().max(256)]).transform(String);
const ResourceObject = z.strictObject(
  {
    Type: upperCase.pipe(z.enum(['INT', 'DOUBLE', 'STRING', 'CHOICE', 'BOOLEAN'])).prefault('INT'),
    Range: number.optional(),
    Min: number.optional(),
    Max: number.optional(),
    Default: scalar.optional(),
    AllowedValues: z.array(scalar).max(1_000).optional(),
    'Allowed values': z.array(scalar).max(1_000).optional(),
    allowed_values: z.array(scalar).max(1_000).optional(),
    Description: line.optional(),
  },
  {
    error: ({ code }) =>
      code === 'invalid_type'
        ? 'must be "lo-hi", "lo-hi:default", a number or an object'
        : undefined,
  },
);
type ResourceObject = z.output<typeof ResourceObject>;

/** `"lo-hi"`, `"lo-hi:default"`, one number for a fixed amount, or an object. */
const Resource = z.preprocess(
  (value) =>
    typeof value === 'string' || typeof value === 'number' ? compact(String(value)) : value,
  ResourceObject,
);

function compact(whole: string): ResourceObject {
  const at = whole.indexOf(':');
  const range = at < 0 ? whole : whole.slice(0, at);
  const fixed = !/\S-/.test(range.trim());
  return {
    Type: 'INT',
    Range: fixed ? `${range}-${range}` : range,
    ...(at >= 0 ? { Default: whole.slice(at + 1).trim() } : fixed && { Default: range.trim() }),
  };
}

/** Resources by their names. What comes out is in one form, and can be read again. */
export const IdbResources = z.record(resourceName, Resource).transform((raw, context) => {
  const resources: Record<string, IdbResource> = {};
  for (const [name, definition] of Object.entries(raw)) {
    const canonical = canonicalResource(name);
    const resource = toResource(definition, resourceUnit(name));
    if (typeof resource === 'string')
      context.addIssue({ code: 'custom', message: resource, path: [name], input: definition });
    // the proper name wins over its alias
    else if (name === canonical || !Object.hasOwn(raw, canonical)) resources[canonical] = resource;
  }
  return resources;
});

/** @returns the reason, if it is none */
function toResource(raw: ResourceObject, unit: UnitKind): IdbResource | string {
  const { Type, Default } = raw;
  const Description = raw.Description === undefined ? {} : { Description: raw.Description };
  switch (Type) {
    case 'STRING':
      return { Type, ...Description, Default };
    case 'BOOLEAN': {
      const value = Default?.toLowerCase();
      if (value !== undefined && value !== 'true' && value !== 'false')
        return 'Default: must be true or false';
      return { Type, ...Description, Default: value };
    }
    case 'CHOICE': {
      const AllowedValues = raw.AllowedValues ?? raw['Allowed values'] ?? raw.allowed_values ?? [];
      if (AllowedValues.length === 0) return 'AllowedValues: must name at least one value';
      if (Default !== undefined && !AllowedValues.includes(Default) && !AllowedValues.includes('*'))
        return `Default: "${Default}" is not one of ${AllowedValues.join(', ')}`;
      return { Type, ...Description, AllowedValues, Default };
    }
    case 'INT':
    case 'DOUBLE':
      return toNumeric(raw, Type, unit, Description);
  }
}

function toNumeric(
  { Range, Min: least, Max: most, Default: preset }: ResourceObject,
  Type: 'INT' | 'DOUBLE',
  unit: UnitKind,
  description: { Description?: string },
): IdbResource | string {
  const range = Range ?? `${least ?? 0}-${most ?? 1}`;
  const [, low = '', high = ''] =
    /^\s*(-?[\d.]+(?:e[+-]?\d+)?\s*[A-Za-z]*)\s*-\s*(-?[\d.]+(?:e[+-]?\d+)?\s*[A-Za-z]*)\s*$/.exec(
      range,
    ) ?? [];
  const Min = toNumber(low, Type, unit);
  const Max = toNumber(high, Type, unit);
  const hint = unit === 'count' ? '' : `, units of ${unit} allowed`;
  if (Min === undefined || Max === undefined)
    return `"${range}" is not a range such as 1-16${hint}`;
  if (Min > Max) return `"${range}" has its bounds the wrong way round`;
  if (preset === undefined) return { Type, Min, Max, ...description };
  const Default = toNumber(preset, Type, unit);
  if (Default === undefined) return `Default: "${preset}" is not a number${hint}`;
  if (Default < Min || Default > Max) return `Default: ${preset} is outside ${range}`;
  return { Type, Min, Max, Default, ...description };
}

function toNumber(text: string, type: 'INT' | 'DOUBLE', unit: UnitKind): number | undefined {
  const trimmed = text.trim();
  if (type === 'DOUBLE') {
    const value = trimmed === '' ? Number.NaN : Number(trimmed);
    return Number.isFinite(value) ? value : undefined;
  }
  const negative = trimmed.startsWith('-');
  const value = parseQuantity(negative ? trimmed.slice(1) : trimmed, unit);
  return value === undefined || !negative ? value : -value;
}

/** A batch queue. */
export const IdbPartition = z.strictObject({
  Description: line.optional(),
  OperatingSystem: line.optional(),
  OperatingSystemVersion: line.optional(),
  CPUArchitecture: line.optional(),
  IsDefaultPartition: flag.optional(),
  Resources: IdbResources,
});
export type IdbPartition = z.output<typeof IdbPartition>;

export const IdbPartitions = z.record(
  z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$/, 'must be letters, digits and ._@+-'),
  IdbPartition,
);
export type IdbPartitions = z.output<typeof IdbPartitions>;

/** Text that is shown to clients with the properties of a site. */
export const IdbInfo = z.record(z.string().min(1).max(80), scalar);

/** @returns what is there twice */
export function twiceNamed(
  applications: readonly Pick<IdbApplication, 'Name' | 'Version'>[],
): string | undefined {
  const names = applications.map(({ Name, Version }) => `${Name} ${Version}`);
  return names.find((name, index) => names.indexOf(name) !== index);
}
