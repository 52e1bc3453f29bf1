import { TsiError } from './error.js';

/** A partition of a batch system (§2.15). UNICORE/X needs the first two members; the others are ours. */
export type Partition = {
  readonly Nodes: number;
  readonly isDefault: boolean;
} & PartitionLimits;

/** The most that a job may have there; absent: unknown, or without limit. */
export type PartitionLimits = {
  /** s */
  readonly Runtime?: number;
  readonly CPUsPerNode?: number;
  /** bytes */
  readonly MemoryPerNode?: number;
};
const limits = [
  'Runtime',
  'CPUsPerNode',
  'MemoryPerNode',
] as const satisfies readonly (keyof PartitionLimits)[];

/** What is left of a project's compute time (§2.15); a percent of -1 is unknown. */
export type Budget = {
  readonly project: string;
  readonly remaining: number;
  readonly percent: number;
  readonly units: string;
};

/** `#TSI_GET_USER_INFO` (§2.15). */
export type UserInfo = {
  readonly home: string;
  /** Lines of `authorized_keys`, with options and comment. */
  readonly acceptedKeys: readonly string[];
  readonly attributes: Readonly<Record<string, string>>;
  readonly status: string;
};

export const reservationStates = [
  'UNKNOWN',
  'INVALID',
  'WAITING',
  'READY',
  'ACTIVE',
  'FINISHED',
  'OTHER',
] as const;
/** `#TSI_QUERY_RESERVATION` (§2.17). */
export type Reservation = {
  readonly state: (typeof reservationStates)[number];
  /** ISO 8601 */
  readonly start?: string;
  readonly text?: string;
};

export function encodePartitions(partitions: Readonly<Record<string, Partition>>): string {
  return JSON.stringify(partitions);
}

export function decodePartitions(payload: string): Record<string, Partition> {
  const raw = parseObject(payload);
  const found: Record<string, Partition> = {};
  for (const [name, value] of Object.entries(raw)) {
    const members = { ...(value as object | null) } as Record<string, unknown>;
    const { Nodes, isDefault } = members;
    if (!Number.isSafeInteger(Nodes) || typeof isDefault !== 'boolean') malformed(payload);
    const known = limits.filter((limit) => isAmount(members[limit]));
    Object.defineProperty(found, name, {
      value: { Nodes, isDefault, ...Object.fromEntries(known.map((key) => [key, members[key]])) },
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return found;
}

function isAmount(value: unknown): boolean {
  return Number.isSafeInteger(value) && Number(value) > 0;
}

/** Where nothing is known: this user, without limit, as stock TSIs say. */
const unlimited = 'USER -1';

export function encodeBudget(budgets: readonly Budget[]): string {
  if (budgets.length === 0) return unlimited;
  return budgets
    .map(({ project, remaining, percent, units }) => `${project} ${remaining} ${percent} ${units}`)
    .join('\n');
}

/** Two words are the current project, in core-h; a line that cannot be read is left out (§2.15). */
export function decodeBudget(payload: string): Budget[] {
  return payload.split('\n').flatMap((line) => {
    const [project, left, share = '-1', units = 'core-h'] = line.trim().split(/\s+/);
    const remaining = Math.trunc(Number(left));
    const percent = Math.trunc(Number(share));
    const known = Number.isSafeInteger(remaining) && percent >= -1 && percent <= 100;
    return project && left && known ? [{ project, remaining, percent, units }] : [];
  });
}

export function encodeUserInfo({ home, acceptedKeys, attributes, status }: UserInfo): string {
  return [
    `home: ${home}`,
    ...acceptedKeys.map((key, at) => `Accepted key ${at}: ${key}`),
    ...Object.entries(attributes).map(([name, value]) => `Attribute: ${name}=${value}`),
    `status: ${status}`,
  ].join('\n');
}

export function decodeUserInfo(payload: string): UserInfo {
  const acceptedKeys: string[] = [];
  const attributes: Record<string, string> = Object.create(null) as Record<string, string>;
  let home: string | undefined;
  let status = '';
  for (const line of payload.split('\n')) {
    const [, title = '', value = ''] = /^([^:]+): ?(.*)$/.exec(line) ?? [];
    const attribute = title === 'Attribute' ? /^([^=]+)=(.*)$/.exec(value) : null;
    if (title === 'home') home ??= value.trim();
    else if (title.startsWith('Accepted key ')) acceptedKeys.push(value.trim());
    else if (attribute?.[1]) attributes[attribute[1]] = attribute[2] ?? '';
    else if (title === 'status') status ||= value.trim();
  }
  if (home === undefined) malformed(payload);
  return { home, acceptedKeys, attributes: { ...attributes }, status };
}

export function encodeReservation({ state, start, text }: Reservation): string {
  return `${[state, start].filter(Boolean).join(' ')}\n${text ?? ''}`;
}

export function decodeReservation(payload: string): Reservation {
  const [first = '', ...rest] = payload.split('\n');
  const [word, start] = first.trim().split(/\s+/);
  const state = reservationStates.find((known) => known === word) ?? malformed(first);
  const text = rest.join('\n').trim();
  return { state, ...(start && { start }), ...(text && { text }) };
}

function parseObject(json: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(json);
    if (typeof value === 'object' && value && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch {
    // said below
  }
  return malformed(json);
}

function malformed(text: string): never {
  throw new TsiError('TSI_PROTOCOL', 'the TSI sends information that cannot be read', {
    reply: text.slice(0, 200),
  });
}
