import { canonicalResource, resourceUnit, type IdbResource } from '#imagerepo/contract.js';
import { errorText } from '#kernel/errors.js';
import { parseQuantity } from '#kernel/units.js';
import { findResource, type Idb, type Partition } from '../idb/idb.js';
import type { JobDescription } from '../job/description.js';
import { JobError } from '../job/errors.js';
import type { Submission } from '../tsi/tsi.js';
import { resolveApplication, type Application } from './application.js';
import { evaluate } from './expression.js';

/** What the job asks the batch system for. Absent: not asked for. */
export type ResourceRequest = Pick<
  Submission,
  | 'wallTime'
  | 'memoryMiB'
  | 'nodes'
  | 'processorsPerNode'
  | 'totalProcessors'
  | 'gpusPerNode'
  | 'arraySize'
  | 'arrayLimit'
  | 'project'
  | 'qos'
  | 'exclusive'
  | 'nodesFilter'
  | 'reservation'
  | 'siteResources'
  | 'email'
> & { readonly queue: string };

type Value = number | string | boolean;
/** As it was asked for: the name in the job, and what stands there. */
type Wish = { readonly name: string; readonly value: Value };
type Wishes = ReadonlyMap<string, Wish>;

/** Passed on as they are where the partition does not say what they may be (tsi-xnjs 6.6). */
const free = new Set(['Project', 'NodeConstraints', 'QoS', 'Exclusive']);
/** The defaults of these count together or not at all. */
const processors = ['Nodes', 'CPUsPerNode', 'TotalCPUs'];
const bytesPerMiB = 1024 ** 2;

/** What became of what a job and its application ask for, for the job's log. */
export type EvaluatedResources = {
  /** Expressions and their values. */
  readonly scripts: readonly { name: string; expression: string; value: string }[];
  /** What the partition adds, as nobody asked for it. */
  readonly defaults: readonly { name: string; value: string }[];
};

/** @throws as {@link checkResources} */
export function evaluateResources(
  job: JobDescription,
  idb: Idb,
  application: Application,
): EvaluatedResources {
  const variables = { ...application.siteEnvironment, ...application.userEnvironment };
  const asked = { ...application.resources, ...job.Resources };
  const scripts = toWishes(asked, variables)
    .map(([, { name, value }]) => ({ name, expression: asked[name] ?? '', value: String(value) }))
    .filter(({ expression }) => isExpression(expression));
  const { values, partition, wished } = settleAll(job, idb, application);
  const added = [...values].filter(([name]) => !wished.has(name));
  const defaults = added.map(([name, value]) => ({ name, value: String(value) }));
  const queue = wished.has('Queue') ? [] : [{ name: 'Queue', value: partition.name }];
  return { scripts, defaults: [...queue, ...defaults] };
}

/**
 * What the job asks for, else the application, else the partition's defaults, checked against the
 * partition that the job goes to.
 * @throws {@link JobError} `RESOURCE_UNKNOWN`, `RESOURCE_OUT_OF_RANGE`, each naming field, value and range
 */
export function checkResources(
  job: JobDescription,
  idb: Idb,
  application: Application = resolveApplication(job, idb),
): ResourceRequest {
  const { values, partition } = settleAll(job, idb, application);
  const email = job['User email'];
  return { ...toRequest(values), queue: partition.name, ...(email !== undefined && { email }) };
}

function settleAll(job: JobDescription, idb: Idb, application: Application) {
  const variables = { ...application.siteEnvironment, ...application.userEnvironment };
  const ofJob = { ...job.Resources, ...(job.Project !== undefined && { Project: job.Project }) };
  const wishes: Wishes = new Map([
    ...toWishes(application.resources, variables),
    ...toWishes(ofJob, variables),
  ]);
  const partition = choosePartition(wishes.get('Queue')?.value, idb.partitions);
  const values = new Map<string, Value>();
  for (const [canonical, wish] of wishes)
    if (canonical !== 'Queue' && wish.value !== '')
      values.set(canonical, checkWish(canonical, wish, partition));
  addDefaults(values, partition);
  return { values, partition, wished: new Set(wishes.keys()) };
}

/** By their proper names, which win over the aliases. Expressions have been evaluated. */
function toWishes(
  resources: Readonly<Record<string, string>>,
  variables: Readonly<Record<string, string>>,
): [string, Wish][] {
  return Object.entries(resources)
    .filter(([name]) => {
      const canonical = canonicalResource(name);
      return name === canonical || !Object.hasOwn(resources, canonical);
    })
    .map(([name, text]) => [
      canonicalResource(name),
      { name, value: settle(name, text, variables) },
    ]);
}

const expressionForm = /^\s*\$\{([^]*)\}\s*$/;
function isExpression(text: string): boolean {
  return expressionForm.test(text);
}

function settle(name: string, text: string, variables: Readonly<Record<string, string>>): Value {
  const [, expression] = expressionForm.exec(text) ?? [];
  if (expression === undefined) return text;
  try {
    return evaluate(expression, variables);
  } catch (error) {
    throw outOfRange(name, `the expression "${expression}": ${errorText(error)}`);
  }
}

/** The one that is asked for, else the default, which is the first. */
function choosePartition(wanted: Value | undefined, partitions: readonly Partition[]): Partition {
  const [first] = partitions;
  if (!first) throw new TypeError('an IDB without partitions');
  if (wanted === undefined || wanted === '') return first;
  const found = partitions.find(({ name }) => name === String(wanted));
  if (found) return found;
  const names = partitions.map(({ name }) => name).join(', ');
  throw outOfRange('Queue', `there is no queue "${wanted}" here; offered: ${names}`);
}

function checkWish(canonical: string, { name, value }: Wish, partition: Partition): Value {
  const resource = findResource(partition, canonical);
  if (canonical === 'Reservation') return headerText(name, value);
  if (canonical === 'Exclusive') return checkFlag(name, value);
  if (resource) return checkValue(name, value, resource);
  if (free.has(canonical)) return headerText(name, value);
  const names = Object.keys(partition.resources).join(', ');
  throw new JobError(
    'RESOURCE_UNKNOWN',
    `Resources.${name}: not offered here; offered are ${names}`,
  );
}

function checkValue(name: string, value: Value, resource: IdbResource): Value {
  switch (resource.Type) {
    case 'INT':
    case 'DOUBLE':
      return checkNumber(name, value, resource);
    case 'BOOLEAN':
      return checkFlag(name, value);
    case 'STRING':
      return headerText(name, value);
    case 'CHOICE': {
      const { AllowedValues } = resource;
      const text = headerText(name, value);
      if (AllowedValues.includes(text) || AllowedValues.includes('*')) return text;
      throw outOfRange(name, `"${text}" is not one of ${AllowedValues.join(', ')}`);
    }
  }
}

function checkNumber(
  name: string,
  value: Value,
  { Type, Min, Max }: Extract<IdbResource, { Type: 'INT' | 'DOUBLE' }>,
): number {
  const unit = resourceUnit(name);
  const suffix = unit === 'count' || Type === 'DOUBLE' ? '' : ` ${unit}`;
  const bounds = `${Min}-${Max}${suffix}`;
  const number = toNumber(value, Type, name);
  if (number === undefined)
    throw outOfRange(
      name,
      Type === 'DOUBLE'
        ? `"${value}" is not a number; the range is ${bounds}`
        : `"${value}" is not a whole number${suffix === '' ? '' : ' with a unit'}; the range is ${bounds}`,
    );
  if (number < Min || number > Max) throw outOfRange(name, `${value} is outside ${bounds}`);
  return number;
}

/** Plain numbers are rounded, as what is calculated seldom comes out whole; units want whole ones. */
function toNumber(value: Value, type: 'INT' | 'DOUBLE', name: string): number | undefined {
  if (typeof value === 'boolean') return undefined;
  const text = String(value).trim();
  const plain = text === '' ? Number.NaN : Number(text);
  const isPlain = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) && Number.isFinite(plain);
  if (type === 'DOUBLE') return isPlain ? plain : undefined;
  return isPlain ? Math.round(plain) : parseQuantity(text, resourceUnit(name));
}

function checkFlag(name: string, value: Value): boolean {
  const text = String(value);
  if (text === 'true' || text === 'false') return text === 'true';
  throw outOfRange(name, `"${text}" is neither true nor false`);
}

/** A TSI may hand it to a shell (tsi-xnjs 4.4). */
function headerText(name: string, value: Value): string {
  const text = String(value);
  if (/[\r\n\0`]|\$\(/.test(text)) throw outOfRange(name, 'must be one line, without ` and $(');
  return text;
}

function addDefaults(values: Map<string, Value>, { resources }: Partition): void {
  const asksForProcessors = processors.some((name) => values.has(name));
  for (const [name, { Type, Default }] of Object.entries(resources)) {
    const skipped = asksForProcessors && processors.includes(name);
    if (Default === undefined || skipped || values.has(name)) continue;
    values.set(name, Type === 'BOOLEAN' ? Default === 'true' : Default);
  }
}

function toRequest(values: ReadonlyMap<string, Value>): Omit<ResourceRequest, 'queue'> {
  const rest = new Map(values);
  const take = <Kind extends 'number' | 'string' | 'boolean'>(name: string, kind: Kind) => {
    const value = rest.get(name);
    rest.delete(name);
    return (typeof value === kind ? value : undefined) as
      // `typeof` of a variable kind narrows nothing
      { number: number; string: string; boolean: boolean }[Kind] | undefined;
  };
  const memoryBytes = take('MemoryPerNode', 'number');
  const arraySize = take('ArraySize', 'number');
  const arrayLimit = take('ArrayLimit', 'number');
  const isArray = arraySize !== undefined && arraySize > 1;
  const request = {
    wallTime: take('Runtime', 'number'),
    memoryMiB: memoryBytes === undefined ? undefined : Math.ceil(memoryBytes / bytesPerMiB),
    nodes: take('Nodes', 'number'),
    processorsPerNode: take('CPUsPerNode', 'number'),
    totalProcessors: take('TotalCPUs', 'number'),
    gpusPerNode: take('GPUsPerNode', 'number'),
    arraySize: isArray ? arraySize : undefined,
    arrayLimit: isArray ? arrayLimit : undefined,
    project: take('Project', 'string'),
    qos: take('QoS', 'string'),
    exclusive: take('Exclusive', 'boolean'),
    nodesFilter: take('NodeConstraints', 'string'),
    reservation: take('Reservation', 'string'),
  };
  const siteResources = toSiteResources(rest);
  return {
    ...withoutAbsent(request),
    ...(Object.keys(siteResources).length > 0 && { siteResources }),
  };
}

/** As they go into `#TSI_SSR_<NAME>`. */
function toSiteResources(values: ReadonlyMap<string, Value>): Record<string, string> {
  return Object.fromEntries(
    [...values].map(([name, value]) => [name.toUpperCase().replaceAll(' ', '_'), String(value)]),
  );
}

type Present<T> = { [K in keyof T]?: Exclude<T[K], undefined> };
function withoutAbsent<T extends object>(value: T): Present<T> {
  // what is left out is what the type says may be missing
  return Object.fromEntries(
    Object.entries(value).filter(([, member]) => member !== undefined),
  ) as Present<T>;
}

function outOfRange(name: string, reason: string): JobError {
  return new JobError('RESOURCE_OUT_OF_RANGE', `Resources.${name}: ${reason}`, { resource: name });
}
