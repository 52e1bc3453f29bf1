import { GridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf } from './caller.js';
import { dnKey, equalDns, normalizeDn } from './dn.js';

/** What may be done: look, use, change (unicore-rest 2.11). Each allows what stands before it. */
export const accessLevels = ['read', 'write', 'modify'] as const;
export type AccessLevel = (typeof accessLevels)[number];

/** What an access control list is about. */
export type Protected = {
  /** Absent: the server's. */
  readonly ownerDn?: string | undefined;
  /** `read:DN:CN=Bob`, `write:GROUP:physics` (unicore-rest 1.8). */
  readonly acl: readonly string[];
};

const entryPattern = /^(read|write|modify):(DN|GROUP|ROLE|UID|VO):([^\0\r\n]{1,1000})$/;
const maxEntries = 100;

/** @throws `BAD_REQUEST` naming the entry */
export function parseAcl(value: unknown): readonly string[] {
  const entries: unknown[] = Array.isArray(value) ? value : [value];
  if (entries.length > maxEntries)
    throw new GridError('BAD_REQUEST', `an ACL has at most ${maxEntries} entries`);
  return [...new Set(entries.map(parseEntry))];
}

function parseEntry(entry: unknown): string {
  const [, level, type, subject = ''] =
    typeof entry === 'string' ? (entryPattern.exec(entry.trim()) ?? []) : [];
  if (level === undefined)
    throw new GridError(
      'BAD_REQUEST',
      `${JSON.stringify(entry).slice(0, 100)} is no ACL entry such as read:DN:CN=Alice or write:GROUP:physics`,
    );
  return `${level}:${type}:${type === 'DN' ? normalizeDn(subject) : subject}`;
}

/** The first entry that grants the caller so much. Strangers and the banned are granted nothing. */
export function findGrant(
  acl: readonly string[],
  caller: Caller,
  level: AccessLevel,
): string | undefined {
  if (acl.length === 0 || caller.role === 'anonymous' || caller.role === 'banned') return undefined;
  const mine = new Set(aclSubjectsOf(caller));
  const enough = accessLevels.slice(accessLevels.indexOf(level)) as readonly string[];
  return acl.find((entry) => {
    const [granted = ''] = entry.split(':', 1);
    return enough.includes(granted) && mine.has(aclSubject(entry));
  });
}

/** Whom an entry is about, in one spelling: `DN:…`, `GROUP:physics`. */
export function aclSubject(entry: string): string {
  const [, , type = '', subject = ''] = entryPattern.exec(entry) ?? [];
  return `${type}:${type === 'DN' ? dnKey(subject) : subject}`;
}

/** Every subject that stands for the caller; nothing for a stranger. */
export function aclSubjectsOf(caller: Caller): string[] {
  const { dn, role, login } = caller;
  if (role === 'anonymous' || role === 'banned') return [];
  const { groups, vos } = attributesOf(caller);
  return [
    `DN:${dnKey(dn)}`,
    `ROLE:${role}`,
    ...(login === undefined ? [] : [`UID:${login}`]),
    ...groups.map((group) => `GROUP:${group}`),
    ...vos.map((vo) => `VO:${vo}`),
  ];
}

/** Owner and administrators may do everything, those whom the ACL names as much as it says. */
export function isAllowed(resource: Protected, caller: Caller, level: AccessLevel): boolean {
  return isOwner(resource, caller) || findGrant(resource.acl, caller, level) !== undefined;
}

/** Also an administrator. Strangers own nothing, whatever their certificate says. */
export function isOwner({ ownerDn }: Pick<Protected, 'ownerDn'>, caller: Caller): boolean {
  if (caller.role === 'admin') return true;
  if (caller.role === 'anonymous' || caller.role === 'banned') return false;
  return ownerDn !== undefined && isSame(caller.dn, ownerDn);
}

/** The common case first: names that we wrote are spelt alike. */
function isSame(a: string, b: string): boolean {
  return a === b || equalDns(a, b);
}
