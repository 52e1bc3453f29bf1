import { GridError } from '#kernel/errors.js';

export class PreferenceError extends GridError<'FORBIDDEN'> {}

/** What a caller chose among what is open to him. */
export type Preferences = {
  readonly uid?: string;
  readonly group?: string;
  readonly supplementaryGroups?: readonly string[];
  readonly role?: string;
  readonly queue?: string;
  /** As whose member he comes. */
  readonly vo?: string;
};

export type Available = {
  readonly logins: readonly string[];
  readonly groups: readonly string[];
  readonly roles: readonly string[];
  /** Absent: every queue. */
  readonly queues?: readonly string[];
  readonly vos: readonly string[];
};

const keys: Readonly<Record<string, keyof Preferences>> = {
  uid: 'uid',
  xlogin: 'uid',
  group: 'group',
  pgid: 'group',
  supgids: 'supplementaryGroups',
  supplementarygroups: 'supplementaryGroups',
  role: 'role',
  queue: 'queue',
  vo: 'vo',
};

const header = 'X-UNICORE-User-Preferences';
const mostPairs = 50;

/**
 * `X-UNICORE-User-Preferences: key:value[,key:value…]`; unknown keys are somebody else's.
 * @throws {@link PreferenceError} `FORBIDDEN` for a part that is no pair, as the original does
 */
export function parsePreferences(text: string): Preferences {
  const chosen: { -readonly [Key in keyof Preferences]: Preferences[Key] } = {};
  const parts = text.split(',');
  if (parts.length > mostPairs) throw refused(`has more than ${mostPairs} parts`);
  for (const part of parts) {
    const [name = '', value, ...more] = part.split(':').map((each) => each.trim());
    if (!name || !value || more.length > 0)
      throw refused(`must be key:value pairs, which ${quoted(part)} is not`);
    const key = Object.hasOwn(keys, name.toLowerCase()) ? keys[name.toLowerCase()] : undefined;
    if (key === 'supplementaryGroups') chosen[key] = value.split('+').filter(Boolean);
    else if (key) chosen[key] = value;
  }
  return chosen;
}

/** As {@link parsePreferences} reads it; nothing if nothing was chosen. */
export function formatPreferences(chosen: Preferences): string | undefined {
  const { supplementaryGroups, ...others } = chosen;
  const pairs = Object.entries(others).map(([key, value]) => `${key}:${value}`);
  if (supplementaryGroups?.length) pairs.push(`supgids:${supplementaryGroups.join('+')}`);
  return pairs.length === 0 ? undefined : pairs.join(',');
}

/** @throws {@link PreferenceError} `FORBIDDEN` for a choice that is not the caller's to make */
export function checkPreferences(chosen: Preferences, available: Available): void {
  const { queues } = available;
  requireAll('login', [chosen.uid], available.logins);
  requireAll('group', [chosen.group], available.groups);
  requireAll('group', chosen.supplementaryGroups ?? [], available.groups);
  requireAll('role', [chosen.role], available.roles);
  if (queues) requireAll('queue', [chosen.queue], queues);
  requireAll('virtual organisation', [chosen.vo], available.vos);
}

function requireAll(
  what: string,
  wanted: readonly (string | undefined)[],
  available: readonly string[],
): void {
  const missing = wanted.find((value) => value !== undefined && !available.includes(value));
  if (missing !== undefined)
    throw refused(`asks for the ${what} ${quoted(missing)}, which is not available to this user`);
}

function refused(reason: string): PreferenceError {
  return new PreferenceError('FORBIDDEN', `${header} ${reason}`);
}

function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 64));
}
