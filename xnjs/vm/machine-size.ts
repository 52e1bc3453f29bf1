import { networkKinds, type NetworkKind } from '#imagerepo/contract.js';
import { parseQuantity, type UnitKind } from '#kernel/units.js';
import { controls, controlNames, type ControlName } from './resource-controls.js';
import { VmError } from './state.js';
import type { ChangeableName, ParameterChange } from './target-system.js';

/** A value, and where it stands in the request: for messages. */
export type Asked<T = number> = { readonly value: T; readonly field: string };

/** What of a machine's size was asked for. */
export type MachineSize = {
  readonly cpus?: Asked;
  readonly memoryMiB?: Asked;
  /** How long it is wanted. */
  readonly runtimeSeconds?: Asked;
  /** What it can be given while it runs; else that is what it is made with. */
  readonly memoryMaxMiB?: Asked;
  /** Of its own disk; else as large as the image's. */
  readonly diskMiB?: Asked;
  /** Else as its image says. */
  readonly network?: Asked<NetworkKind>;
  /** Whether its cores are to be its own. */
  readonly pinned?: Asked<boolean>;
} & Readonly<Partial<Record<ControlName, Asked>>>;

const measures = [
  ...(['cpus', 'memoryMiB', 'memoryMaxMiB', 'diskMiB', 'runtimeSeconds'] as const),
  ...controlNames,
] as const;
type Measure = (typeof measures)[number] | 'nodes';
type Reading = { readonly measure: Measure; readonly unit: UnitKind };

/** UNICORE's names of resources, and ours. */
const readings: Readonly<Record<string, Reading>> = {
  cpus: { measure: 'cpus', unit: 'count' },
  CPUsPerNode: { measure: 'cpus', unit: 'count' },
  TotalCPUs: { measure: 'cpus', unit: 'count' },
  CPUs: { measure: 'cpus', unit: 'count' },
  memoryMiB: { measure: 'memoryMiB', unit: 'count' },
  MemoryPerNode: { measure: 'memoryMiB', unit: 'bytes' },
  Memory: { measure: 'memoryMiB', unit: 'bytes' },
  Runtime: { measure: 'runtimeSeconds', unit: 'seconds' },
  Nodes: { measure: 'nodes', unit: 'count' },
  memoryMaxMiB: { measure: 'memoryMaxMiB', unit: 'count' },
  diskMiB: { measure: 'diskMiB', unit: 'count' },
  ...Object.fromEntries(
    controlNames.map((name) => [name, { measure: name, unit: controls[name].unit }]),
  ),
};

const bytesPerMiB = 1024 ** 2;
const kinds = {
  count: 'a whole number',
  bytes: 'a whole number of bytes, or with a unit such as 2G',
  seconds: 'a whole number of seconds, or with a unit such as 2h',
} as const satisfies Record<UnitKind, string>;

/**
 * Reads the size of a machine from resources of a job, or parameters of a target system.
 * @param section where the values stand, `Resources`: for messages
 * @param others what becomes of names that say nothing of a machine
 * @throws {@link VmError} `BAD_REQUEST` naming the field and the reason
 */
export function readMachineSize(
  section: string,
  values: Readonly<Record<string, unknown>>,
  others: 'ignore' | 'refuse',
): MachineSize {
  const size: Partial<Record<Measure, Asked>> = {};
  const network = readNetwork(section, values['network']);
  const pinned = readPinned(section, values['pinned']);
  for (const [name, given] of Object.entries(values)) {
    const field = `${section}.${name}`;
    const reading = Object.hasOwn(readings, name) ? readings[name] : undefined;
    if (!reading) {
      if (others === 'ignore' || name === 'network' || name === 'pinned') continue;
      const known = [...Object.keys(readings), 'network', 'pinned'].join(', ');
      throw new VmError('BAD_REQUEST', `${field}: is not known; known are ${known}`);
    }
    if (given === null) continue;
    const asked = { value: toNumber(field, given, reading), field };
    const former = size[reading.measure];
    if (former && former.value !== asked.value) throw contradiction(former, asked);
    size[reading.measure] = former ?? asked;
  }
  const { nodes, ...machine } = size;
  if (nodes && nodes.value !== 1)
    throw new VmError('BAD_REQUEST', `${nodes.field}: ${nodes.value} is not 1: one machine`);
  return { ...machine, ...(network && { network }), ...(pinned && { pinned }) };
}

/** Clients of UNICORE send texts. */
function readPinned(section: string, given: unknown): Asked<boolean> | undefined {
  if (given === undefined || given === null) return undefined;
  const field = `${section}.pinned`;
  if (given === true || given === 'true') return { value: true, field };
  if (given === false || given === 'false') return { value: false, field };
  throw new VmError('BAD_REQUEST', `${field}: must be true or false`);
}

function readNetwork(section: string, given: unknown): Asked<NetworkKind> | undefined {
  if (given === undefined || given === null) return undefined;
  const field = `${section}.network`;
  const value = networkKinds.find((kind) => kind === given);
  if (value) return { value, field };
  throw new VmError('BAD_REQUEST', `${field}: must be one of ${networkKinds.join(', ')}`);
}

/**
 * Reads what is to change of a machine that runs; `null` takes a resource control back.
 * @throws {@link VmError} `BAD_REQUEST` naming the field and the reason
 */
export function readParameterChange(
  section: string,
  values: Readonly<Record<string, unknown>>,
): ParameterChange {
  const size = readMachineSize(section, values, 'refuse');
  const change: Partial<Record<ChangeableName, Asked | null>> = {};
  const { network, pinned, ...numbers } = size;
  for (const asked of [network, pinned])
    if (asked) throw new VmError('BAD_REQUEST', `${asked.field}: ${fixed}`);
  for (const [name, asked] of Object.entries(numbers)) {
    if (name !== 'memoryMiB' && !isControl(name))
      throw new VmError('BAD_REQUEST', `${asked.field}: ${reasons[name] ?? fixed}`);
    change[name] = asked;
  }
  for (const [name, value] of Object.entries(values)) {
    if (value !== null) continue;
    if (!isControl(name))
      throw new VmError('BAD_REQUEST', `${section}.${name}: cannot be taken back, only changed`);
    change[name] = null;
  }
  if (Object.keys(change).length === 0)
    throw new VmError('BAD_REQUEST', `${section}: names nothing to change`);
  return change as ParameterChange; // as: `null` comes from controls only
}

const fixed = 'cannot change while the machine runs';
const reasons: Readonly<Record<string, string>> = {
  runtimeSeconds: 'is changed by terminationTime',
};

function isControl(name: string): name is ControlName {
  return Object.hasOwn(controls, name);
}

/** What both ask for. @throws {@link VmError} `BAD_REQUEST` where they contradict each other */
export function joinSizes(a: MachineSize, b: MachineSize): MachineSize {
  for (const measure of [...measures, 'network', 'pinned'] as const) {
    const [one, other] = [a[measure], b[measure]];
    if (one && other && one.value !== other.value) throw contradiction(one, other);
  }
  return { ...b, ...a };
}

function toNumber(field: string, given: unknown, { measure, unit }: Reading): number {
  const text = typeof given === 'string' || typeof given === 'number' ? String(given) : '';
  const number = parseQuantity(text, unit);
  if (number === undefined || !Number.isSafeInteger(number))
    throw new VmError('BAD_REQUEST', `${field}: must be ${kinds[unit]}`);
  return measure === 'memoryMiB' && unit === 'bytes' ? Math.ceil(number / bytesPerMiB) : number;
}

type Value = number | string | boolean;
function contradiction(one: Asked<Value>, other: Asked<Value>): VmError {
  const text = `${other.field}: ${other.value} contradicts ${one.field}, ${one.value}`;
  return new VmError('BAD_REQUEST', text);
}
