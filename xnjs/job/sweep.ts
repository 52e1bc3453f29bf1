import { createHash } from 'node:crypto';
import { isMap } from './description-scalars.js';
import { withoutNulls, type RawDescription } from './description.js';
import { JobError } from './errors.js';

/** A job that is run once for each of some values (tsi-xnjs 5.3, unicore-rest 3.6.5). */
export type Sweep = {
  /** `SIZE`, or the file that the values are imported as: for the log. */
  readonly name: string;
  readonly values: readonly string[];
  /** What remains for the parent: to stage in what all children share. */
  readonly parent: RawDescription;
  /** What one of the children does. */
  readonly child: (value: string) => RawDescription;
  /** Where each child stages in what it does not share; absent for a sweep over a parameter. */
  readonly ownFile?: string;
};

/** A parent does these for all, or they make no sense for a part of a job. */
const parentsOwn = ['haveClientStageIn', 'Not before', 'Notification', 'NotificationSettings'];
/** The children do these. */
const childrensOwn = ['Exports', 'User precommand', 'User postcommand'];
const tags = ['Tags', 'tags'];

/**
 * @returns `undefined` for a plain job
 * @throws {@link JobError} `JOB_INVALID`: the sweep is none, or has more than `limit` values
 */
export function findSweep(raw: RawDescription, limit: number): Sweep | undefined {
  const description = withoutNulls(raw) as RawDescription; // a map stays one
  const found = [...parameterSweeps(description, limit), ...fileSweeps(description)];
  const [sweep] = found;
  if (!sweep) return undefined;
  if (found.length > 1)
    refuse(`a job can sweep over one thing only, not over ${found.map((s) => s.name).join(', ')}`);
  if (sweep.values.length === 0) refuse(`${sweep.name}: a sweep needs at least one value`);
  if (sweep.values.length > limit)
    refuse(`${sweep.name}: a sweep may have at most ${limit} values, not ${sweep.values.length}`);
  return sweep;
}

/** The same whenever the children of this run are made. */
export function childId(parentId: string, run: number, index: number): string {
  const hash = createHash('sha256').update(`${parentId}/${run}/${index}`).digest('hex');
  const variant = '89ab'.charAt(Number.parseInt(hash.charAt(16), 16) % 4);
  return [
    hash.slice(0, 8),
    hash.slice(8, 12),
    `8${hash.slice(13, 16)}`,
    `${variant}${hash.slice(17, 20)}`,
    hash.slice(20, 32),
  ].join('-');
}

function parameterSweeps(raw: RawDescription, limit: number): Sweep[] {
  const parameters = raw['Parameters'];
  if (!isMap(parameters)) return [];
  const imports = raw['Imports'];
  return Object.entries(parameters)
    .filter((entry): entry is [string, Record<string, unknown>] => isMap(entry[1]))
    .map(([name, spec]) => {
      return {
        name: `Parameters.${name}`,
        values: valuesOf(name, spec, limit),
        parent: { ...lacking(raw, childrensOwn), Parameters: lacking(parameters, [name]) },
        child: (value) => ({
          ...lacking(raw, [...parentsOwn, ...tags, ...(imports === undefined ? [] : ['Imports'])]),
          Parameters: { ...parameters, [name]: value },
        }),
      };
    });
}

function fileSweeps(raw: RawDescription): Sweep[] {
  const listed = raw['Imports'];
  const imports = isMap(listed)
    ? Object.entries(listed).map(([To, entry]) => (isMap(entry) ? { To, ...entry } : entry))
    : listed;
  if (!Array.isArray(imports)) return [];
  const swept = (entry: unknown): entry is Record<string, unknown> =>
    isMap(entry) && (Array.isArray(entry['From']) || Array.isArray(entry['source']));
  return imports.filter(swept).map((entry) => {
    const to = entry['To'] ?? entry['file'];
    const name = typeof to === 'string' ? to : 'Imports';
    return {
      name: `Imports ${name}`,
      ownFile: name,
      values: scalars(name, (entry['From'] ?? entry['source']) as unknown[]),
      parent: {
        ...lacking(raw, childrensOwn),
        Imports: (imports as unknown[]).filter((other) => other !== entry),
      },
      child: (From) => ({
        ...lacking(raw, [...parentsOwn, ...tags]),
        Imports: [{ ...lacking(entry, ['source']), From }],
      }),
    };
  });
}

function valuesOf(name: string, spec: Record<string, unknown>, limit: number): readonly string[] {
  if (Array.isArray(spec['Values'])) return scalars(`Parameters.${name}`, spec['Values']);
  const { From: from, To: to, Step: by = '1' } = spec;
  if (from === undefined || to === undefined)
    refuse(`Parameters.${name}: must be {"Values": […]} or {"From", "To", "Step"}`);
  return range(`Parameters.${name}`, [from, to, by], limit);
}

/** In decimal arithmetic: 0.1 to 0.3 by 0.1 has three values. */
function range(name: string, bounds: readonly unknown[], limit: number): string[] {
  const texts = bounds.map((bound) => String(bound).trim());
  if (!texts.every((text) => /^-?\d{1,12}(\.\d{1,6})?$/.test(text)))
    refuse(`${name}: From, To and Step must be numbers`);
  const digits = Math.max(...texts.map((text) => (text.split('.')[1] ?? '').length));
  const scale = 10 ** digits;
  const [from = 0, to = 0, by = 0] = texts.map((text) => Math.round(Number(text) * scale));
  if (by === 0 || (to - from) / by < 0) refuse(`${name}: Step must lead from From to To`);
  const count = Math.floor((to - from) / by) + 1;
  if (count > limit) refuse(`${name}: a sweep may have at most ${limit} values, not ${count}`);
  return Array.from({ length: count }, (_, at) => ((from + at * by) / scale).toFixed(digits));
}

function scalars(name: string, values: readonly unknown[]): string[] {
  return values.map((value) => {
    if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean')
      refuse(`${name}: the values of a sweep must be strings`);
    return String(value);
  });
}

function lacking(raw: RawDescription, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(raw).filter(([name]) => !names.includes(name)));
}

function refuse(reason: string): never {
  throw new JobError('JOB_INVALID', `Invalid job description: ${reason}`);
}
