import { GridError } from '#kernel/errors.js';

export class PreferenceError extends GridError<'FORBIDDEN'> {}

/** What a caller chose among what is open to him. */
export type Preferences = {
  readonly uid?: string;
  readonly group?: string;
  readonly supplementaryGroups?: readonly string[];
  readonly role?: string;
};

export type Available = {
  readonly logins: readonly string[];
  readonly groups: readonly string[];
  readonly roles: readonly string[];
};

const keys: Readonly<Record<string, keyof Preferences>> = {
  uid: 'uid',
  xlogin: 'uid',
  group: 'group',
  pgid: 'group',
  supgids: 'supplementaryGroups',
  supplementarygroups: 'supplementaryGroups',
  role: 'role',
};

/**
 * `X-UNICORE-User-Preferences: key:value[,key:value…]`; unknown keys are somebody else's.
 * @throws {@link PreferenceError} `FORBIDDEN` for a part that is no pair, as the original does
 */
export function parsePreferences(header: string): Preferences {
  const chosen: { -readonly [Key in keyof Preferences]: Preferences[Key] } = {};
  for (const part of header.split(',')) {
    const [name = '', value, ...more] = part.split(':').map((text) => text.trim());
    if (value === undefined || more.length > 0) {
      throw new PreferenceError('FORBIDDEN', 'user preferences must be key:value pairs');
    }
    const key = Object.hasOwn(keys, name.toLowerCase()) ? keys[name.toLowerCase()] : undefined;
    if (key === 'supplementaryGroups') chosen[key] = value.split('+').filter(Boolean);
    else if (key) chosen[key] = value;
  }
  return chosen;
}

/** @throws {@link PreferenceError} `FORBIDDEN` for a choice that is not the caller's to make */
export function checkPreferences(chosen: Preferences, available: Available): void {
  const refused =
    missing('login', chosen.uid, available.logins) ??
    missing('group', chosen.group, available.groups) ??
    missing('role', chosen.role, available.roles) ??
    chosen.supplementaryGroups
      ?.map((group) => missing('group', group, available.groups))
      .find((text) => text !== undefined);
  if (refused !== undefined) throw new PreferenceError('FORBIDDEN', refused);
}

function missing(
  what: string,
  value: string | undefined,
  list: readonly string[],
): string | undefined {
  return value === undefined || list.includes(value)
    ? undefined
    : `the requested ${what} is not available to this user`;
}
